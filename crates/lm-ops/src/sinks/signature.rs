//! How a receiver knows that a message is this server's: as the Standard Webhooks specification has it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::sinks::SinkError;

const PREFIX: &str = "whsec_";
const MIN_BYTES: usize = 24;
const MAX_BYTES: usize = 64;

/// The key that messages are signed with. Nothing shows it.
#[derive(Clone)]
pub(crate) struct Secret(hmac::Key);

impl Secret {
    /// Base64 of 24 to 64 bytes, behind `whsec_` or not.
    pub(crate) fn parse(text: &str) -> Result<Secret, SinkError> {
        let text = text.trim();
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX).unwrap_or(text));
        match bytes {
            Ok(bytes) if (MIN_BYTES..=MAX_BYTES).contains(&bytes.len()) => {
                Ok(Secret(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
            }
            _ => Err(SinkError::Secret),
        }
    }

    /// The value of `webhook-signature`: of id, time and body, so that no message can be sent again as another one.
    pub(crate) fn sign(&self, id: &str, timestamp_s: i64, body: &str) -> String {
        let tag = hmac::sign(&self.0, format!("{id}.{timestamp_s}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(tag))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn signatures_are_those_of_the_specification() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", r#"{"test": 2432232314}"#);
        let expect = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(secret.sign(id, 1_614_265_330, body), expect);
        let bare = Secret::parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(bare.sign(id, 1_614_265_330, body), expect);
        assert_ne!(secret.sign(id, 1_614_265_331, body), expect);
        assert!(!format!("{secret:?}").contains("MfKQ"));
    }

    #[test]
    fn a_secret_is_long_enough_and_base64() {
        for wrong in ["", "whsec_", "hunter2", "whsec_c2hvcnQ=", "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"]
        {
            let error = Secret::parse(wrong).unwrap_err().to_string();
            assert!(error.contains("24 to 64 bytes") && !error.contains("hunter2"), "{error}");
        }
        assert!(Secret::parse(&STANDARD.encode([7; 65])).is_err());
        assert!(Secret::parse(&STANDARD.encode([7; 64])).is_ok());
    }
}
