//! The one place that everything people wrote passes before it is stored: what may be kept of it, and how.
//!
//! It must never let a text by that its mode withholds, and never lose who is to be found again for erasure.
//!
//! Start reading at [`Mask::answer`].

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use lm_privacy::{MacKey, mask};
use lm_types::{GenerateError, Outcome, Prompt, RequestEvent};

use crate::error::io;
use crate::sql::server_url;
use crate::write::prompt_json;
use crate::{Feedback, Implied, Privacy, StoreError};

/// Lies beside the store, so that a store that is copied alone tells nobody whose its rows are.
const KEY_FILE: &str = "mask.key";
/// Longest subject that is kept as it is.
pub(crate) const MAX_SUBJECT_BYTES: usize = 512;

/// What may be kept, by the mode of a store.
#[derive(Clone, Debug)]
pub(crate) struct Mask {
    privacy: Privacy,
    key: MacKey,
}

/// An answer as it may be stored.
pub(crate) struct Masked {
    /// Its texts are masked; where the fields below are `None`, they must not be written.
    pub(crate) event: Box<RequestEvent>,
    /// The prompt with its stop strings, as JSON.
    pub(crate) prompt: Option<String>,
    pub(crate) output_text: Option<String>,
    pub(crate) prompt_mac: Option<String>,
    pub(crate) output_mac: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) subject: Option<String>,
    /// Whether everything that the answer came of may be kept, too.
    pub(crate) is_full: bool,
}

impl Mask {
    /// The mask of the store at `place`; its key is made when there is none.
    pub(crate) fn open(
        key_file: Option<&Path>,
        place: &Path,
        privacy: Privacy,
    ) -> Result<Self, StoreError> {
        let beside = || server_url(place).is_none().then(|| place.with_file_name(KEY_FILE));
        let Some(path) = key_file.map(Path::to_owned).or_else(beside) else {
            return match privacy {
                Privacy::Full => Ok(Mask { privacy, key: MacKey::new([0; 32]) }),
                _ => Err(StoreError::InvalidOption {
                    field: "mask_key",
                    value: "absent".to_owned(),
                    limit: "given for a store on a server whose privacy is not full",
                }),
            };
        };
        let key = match read_key(&path)? {
            Some(key) => key,
            None => make_key(&path)?,
        };
        Ok(Mask { privacy, key })
    }

    /// An answer as it may be stored.
    pub(crate) fn answer(&self, mut event: Box<RequestEvent>) -> Masked {
        let subject = event.request.subject.take().map(|subject| self.subject(&subject));
        let mut masked = Masked {
            error_message: self.error_message(&event.outcome),
            prompt: None,
            output_text: None,
            prompt_mac: None,
            output_mac: None,
            subject,
            is_full: self.privacy == Privacy::Full,
            event,
        };
        let event = &mut masked.event;
        match self.privacy {
            Privacy::Off => {}
            Privacy::Hmac => {
                let prompt = prompt_json(&event.request).to_string();
                masked.prompt_mac = Some(self.key.mac("prompt", &prompt));
                masked.output_mac = Some(self.key.mac("answer", &event.output_text));
            }
            Privacy::Redacted => {
                // What token ids spell is not known here, so nothing in them could be masked.
                let is_readable = !matches!(event.request.prompt, Prompt::Tokens(_));
                redact(event);
                masked.prompt = is_readable.then(|| prompt_json(&event.request).to_string());
                masked.output_text = Some(event.output_text.clone());
            }
            Privacy::Full => {
                masked.prompt = Some(prompt_json(&event.request).to_string());
                masked.output_text = Some(std::mem::take(&mut event.output_text));
            }
        }
        masked
    }

    /// Feedback as it may be stored.
    pub(crate) fn feedback(&self, mut feedback: Feedback) -> Feedback {
        // What a server says by itself quotes nothing.
        let is_implied =
            feedback.comment.as_deref().is_some_and(|text| Implied::of(text).is_some());
        let comment = (!is_implied).then_some(&mut feedback.comment);
        for text in comment.into_iter().chain([&mut feedback.correction]) {
            *text = text.take().and_then(|text| self.text(text));
        }
        feedback
    }

    /// The forms that a subject may have been stored in.
    pub(crate) fn subject_forms(&self, subject: &str) -> [String; 2] {
        [subject.to_owned(), self.key.mac("subject", subject)]
    }

    /// Whoever it is must be found again in every mode, to be erased.
    fn subject(&self, subject: &str) -> String {
        let is_kept = self.privacy == Privacy::Full && subject.len() <= MAX_SUBJECT_BYTES;
        if is_kept { subject.to_owned() } else { self.key.mac("subject", subject) }
    }

    fn text(&self, text: String) -> Option<String> {
        match self.privacy {
            Privacy::Off | Privacy::Hmac => None,
            Privacy::Redacted => Some(mask(&text).0),
            Privacy::Full => Some(text),
        }
    }

    fn error_message(&self, outcome: &Outcome) -> Option<String> {
        let Outcome::Failed(error) = outcome else { return None };
        if may_quote(error) { self.text(error.to_string()) } else { Some(error.to_string()) }
    }
}

/// Masks what is personal in everything that people or the model wrote.
fn redact(event: &mut RequestEvent) {
    let in_place = |text: &mut String| *text = mask(text).0;
    match &mut event.request.prompt {
        Prompt::Text(text) => in_place(text),
        Prompt::Infill { prefix, suffix } => [prefix, suffix].into_iter().for_each(in_place),
        Prompt::Chat(messages) => messages.iter_mut().for_each(|m| in_place(&mut m.content)),
        Prompt::Tokens(tokens) => tokens.clear(),
    }
    event.request.stop.stop_strings.iter_mut().for_each(in_place);
    in_place(&mut event.output_text);
}

/// Whether the error's sentence may hold words of the prompt.
fn may_quote(error: &GenerateError) -> bool {
    matches!(error, GenerateError::InvalidField { .. } | GenerateError::Template { .. })
}

fn read_key(path: &Path) -> Result<Option<MacKey>, StoreError> {
    let mut bits = [0; 32];
    match fs::File::open(path).and_then(|mut file| file.read_exact(&mut bits)) {
        Ok(()) => Ok(Some(MacKey::new(bits))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io(path, "read the mask's key", &error)),
    }
}

/// Written under another name first: no other process sees half a key, and the first one stays.
fn make_key(path: &Path) -> Result<MacKey, StoreError> {
    let failed = |error: std::io::Error| io(path, "make the mask's key", &error);
    let mut bits = [0; 32];
    // Beside a store on a server there may be nothing else yet.
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    getrandom::fill(&mut bits).map_err(|error| failed(std::io::Error::other(error.to_string())))?;
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&new).and_then(|mut file| {
        file.write_all(&bits)?;
        file.sync_all()
    });
    let linked = written.and_then(|()| fs::hard_link(&new, path));
    let _ = fs::remove_file(&new);
    match linked {
        Ok(()) => Ok(MacKey::new(bits)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            read_key(path)?.ok_or_else(|| failed(ErrorKind::NotFound.into()))
        }
        Err(error) => Err(failed(error)),
    }
}
