//! An experiment as a server needs it: which requests it is about, and which arm each gets.
//!
//! It must never draw at random: the same unit gets the same arm, on every server that has the salt.
//!
//! Start reading at [`Live::assign`].

use lm_types::{Arm, ArmTag, ChatMessage, Prompt, Role};

use crate::prompts::render;
use crate::{Spec, Stage, UnitBy, Variant};

/// An experiment that runs, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// What was said.
    pub spec: Spec,
    /// How many get the candidate.
    pub stage: Stage,
    pub(crate) salt: String,
    /// The system prompts of primary and candidate.
    pub(crate) systems: [Option<String>; 2],
    /// The digests of primary and candidate.
    pub(crate) digests: [String; 2],
}

/// Of what a unit may be made.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// The request's id.
    pub request: &'a str,
    /// The key's tenant; `None` came without.
    pub tenant: Option<&'a str>,
    /// The `user` of the request.
    pub user: Option<&'a str>,
    /// The header that the experiment names.
    pub header: Option<&'a str>,
    /// The first message of the user.
    pub first_message: Option<&'a str>,
}

impl Live {
    /// Whether it is about requests by this route for this model.
    #[must_use]
    pub fn concerns(&self, route: &str, model: &str) -> bool {
        self.spec.model == model && self.spec.routes.iter().any(|known| known == route)
    }

    /// The arm of a unit: a larger stage keeps those who had the candidate already.
    #[must_use]
    pub fn assign(&self, unit: Unit<'_>) -> ArmTag {
        let mut hasher = blake3::Hasher::new();
        let mut add = |word: &str, text: Option<&str>| {
            // Lengths keep two texts apart.
            let text = text.unwrap_or_default();
            hasher.update(format!("{word} {} ", text.len()).as_bytes());
            hasher.update(text.as_bytes());
        };
        add("salt", Some(&self.salt));
        let alone = |add: &mut dyn FnMut(&str, Option<&str>)| add("request", Some(unit.request));
        match &self.spec.unit {
            UnitBy::User if unit.user.is_some() => {
                add("key", unit.tenant);
                add("user", unit.user);
            }
            UnitBy::User | UnitBy::Key if unit.tenant.is_some() => add("key", unit.tenant),
            UnitBy::Conversation if unit.first_message.is_some() => {
                add("key", unit.tenant);
                add("user", unit.user);
                add("first", unit.first_message);
            }
            UnitBy::Header(_) if unit.header.is_some() => add("header", unit.header),
            _ => alone(&mut add),
        }
        let hash = hasher.finalize();
        let mut head = [0; 8];
        head.copy_from_slice(&hash.as_bytes()[..8]);
        let percent = self.spec.percent_at(self.stage);
        let is_candidate = u128::from(u64::from_be_bytes(head)) * 100 < u128::from(percent) << 64;
        let arm = if is_candidate { Arm::Candidate } else { Arm::Primary };
        ArmTag {
            experiment: self.spec.name.clone(),
            arm,
            unit: hash.to_hex()[..32].to_owned(),
            percent,
            variant: self.digests[usize::from(is_candidate)].clone(),
            shadow_of: None,
        }
    }

    /// The place of a copy of a request that the primary answers.
    #[must_use]
    pub fn shadow_of(&self, tag: &ArmTag, request: lm_types::RequestId) -> ArmTag {
        let variant = self.digests[1].clone();
        ArmTag { arm: Arm::Shadow, shadow_of: Some(request), variant, ..tag.clone() }
    }

    /// What answers for an arm.
    #[must_use]
    pub fn variant(&self, arm: Arm) -> &Variant {
        match arm {
            Arm::Primary => &self.spec.primary,
            Arm::Candidate | Arm::Shadow => &self.spec.candidate,
        }
    }

    /// Gives a conversation the arm's system prompt; other prompts stay as they are.
    pub fn instruct(&self, arm: Arm, prompt: &mut Prompt) {
        let system = &self.systems[usize::from(arm != Arm::Primary)];
        let (Some(system), Prompt::Chat(messages)) = (system, prompt) else { return };
        let has_own = messages.first().is_some_and(|message| message.role == Role::System);
        let own = if has_own { messages[0].content.as_str() } else { "" };
        let content = render(system, own);
        let message = ChatMessage { role: Role::System, content };
        if has_own {
            messages[0] = message;
        } else {
            messages.insert(0, message);
        }
    }
}
