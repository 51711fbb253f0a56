//! Secrets and personal data in a text, by their shapes and check digits.
//!
//! It must never repeat what it found.
//!
//! Start reading at [`secret`] and [`Kind::is_in`].

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use regex::{Captures, Regex};

/// Personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An e-mail address.
    Email,
    /// A phone number.
    Phone,
    /// An IBAN whose check digits are right.
    Iban,
    /// A number of a card network whose check digit is right.
    CreditCard,
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is a constant: this is a bug")
}

static SECRETS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    vec![
        ("a private key", regex(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----")),
        ("an AWS access key", regex(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
        ("a GitHub token", regex(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40})")),
        ("a Slack token", regex(r"\bxox[abeprs]-[A-Za-z0-9-]{10,}")),
        ("an API key", regex(r"\b(?:sk|rk|pk)[-_](?:live_|test_|proj-|ant-)?[A-Za-z0-9_-]{20,}")),
        ("a Google API key", regex(r"\bAIza[0-9A-Za-z_-]{35}")),
        ("a JSON web token", regex(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.")),
        ("a password in an address", regex(r"\b[a-z][a-z0-9+]{1,15}://[^/\s:@]{1,64}:[^/\s:@]+@")),
    ]
});

/// Each secret has one of these; most texts have none.
const SIGNS: [&str; 20] = [
    "PRIVATE KEY",
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "xox",
    "sk-",
    "sk_",
    "rk-",
    "rk_",
    "pk-",
    "pk_",
    "AIza",
    "eyJ",
    "://",
    "-----BEGIN",
];
static SIGN: LazyLock<AhoCorasick> =
    LazyLock::new(|| AhoCorasick::new(SIGNS).expect("the signs are constants: this is a bug"));
static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b"));
static PHONE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"\+[1-9][0-9]{0,2}(?:[ .()/-]{0,2}[0-9]){7,12}\b|\(?\b[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}\b",
    )
});
static IBAN: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b"));
static CARD: LazyLock<Regex> = LazyLock::new(|| regex(r"\b[2-6](?:[ -]?[0-9]){12,18}\b"));

/// What kind of secret the text has.
#[must_use]
pub fn secret(text: &str) -> Option<&'static str> {
    if !SIGN.is_match(text) {
        return None;
    }
    SECRETS.iter().find(|(_, regex)| regex.is_match(text)).map(|(kind, _)| *kind)
}

impl Kind {
    /// The kind of a name, such as `credit_card`.
    #[must_use]
    pub fn of(name: &str) -> Option<Kind> {
        Some(match name {
            "email" => Kind::Email,
            "phone" => Kind::Phone,
            "iban" => Kind::Iban,
            "credit_card" => Kind::CreditCard,
            _ => return None,
        })
    }

    /// Whether the text has such data.
    #[must_use]
    pub fn is_in(self, text: &str) -> bool {
        let bytes = text.as_bytes();
        match self {
            Kind::Email => memchr::memchr(b'@', bytes).is_some() && EMAIL.is_match(text),
            Kind::Phone => has_digits(bytes, 8) && PHONE.is_match(text),
            Kind::Iban => {
                // Two check digits, and letters may be all the rest.
                has_digits(bytes, 2) && IBAN.find_iter(text).any(|found| is_iban(found.as_str()))
            }
            Kind::CreditCard => {
                has_digits(bytes, 13) && CARD.find_iter(text).any(|found| is_card(found.as_str()))
            }
        }
    }
}

/// The text with secrets and personal data replaced by what they are, as `[an e-mail address]`, and how many were.
#[must_use]
pub fn mask(text: &str) -> (String, usize) {
    let mut masked = text.to_owned();
    let mut n_masked = 0;
    let mut replace = |regex: &Regex, name: &str, is_one: fn(&str) -> bool| {
        let replaced = regex.replace_all(&masked, |found: &Captures<'_>| {
            if is_one(&found[0]) {
                n_masked += 1;
                format!("[{name}]")
            } else {
                found[0].to_owned()
            }
        });
        if let Cow::Owned(replaced) = replaced {
            masked = replaced;
        }
    };
    if SIGN.is_match(text) {
        for (kind, regex) in SECRETS.iter() {
            replace(regex, kind, |_| true);
        }
    }
    replace(&EMAIL, &Kind::Email.to_string(), |_| true);
    replace(&IBAN, &Kind::Iban.to_string(), is_iban);
    replace(&CARD, &Kind::CreditCard.to_string(), is_card);
    replace(&PHONE, &Kind::Phone.to_string(), |_| true);
    (masked, n_masked)
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Email => "an e-mail address",
            Kind::Phone => "a phone number",
            Kind::Iban => "an IBAN",
            Kind::CreditCard => "a credit card number",
        })
    }
}

/// At least `n`; cheaper than a regex on the many texts that have none.
fn has_digits(text: &[u8], n: usize) -> bool {
    text.iter().filter(|byte| byte.is_ascii_digit()).nth(n - 1).is_some()
}

/// ISO 13616: the number that the letters spell, country and check digits last, is 1 modulo 97. A match may run on
/// into the next words, so each length that an IBAN has is tried.
fn is_iban(found: &str) -> bool {
    let chars: Vec<u8> = found.bytes().filter(|byte| *byte != b' ').collect();
    (15..=chars.len().min(34)).any(|n| {
        let moved = chars[4..n].iter().chain(&chars[..4]);
        let rest = moved.fold(0_u64, |rest, byte| match byte {
            b'0'..=b'9' => (rest * 10 + u64::from(byte - b'0')) % 97,
            _ => (rest * 100 + u64::from(byte - b'A') + 10) % 97,
        });
        rest == 1
    })
}

/// The Luhn check of ISO/IEC 7812-1, with 13 to 19 digits, on numbers of the card networks.
fn is_card(found: &str) -> bool {
    let digits: Vec<u32> =
        found.bytes().filter(u8::is_ascii_digit).map(|b| u32::from(b - b'0')).collect();
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, digit)| match (i % 2, digit * 2) {
            (0, _) => *digit,
            (_, double) if double > 9 => double - 9,
            (_, double) => double,
        })
        .sum();
    let is_network = match digits[0] {
        2 | 5 => digits.len() == 16,
        3 => matches!(digits.len(), 14..=16),
        4 => matches!(digits.len(), 13 | 16 | 19),
        _ => matches!(digits.len(), 16..=19),
    };
    sum.is_multiple_of(10) && is_network && digits.iter().any(|digit| *digit != digits[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, yes: &[&str], no: &[&str]) {
        for text in yes {
            assert!(kind.is_in(text), "{kind} is not seen in {text:?}");
        }
        for text in no {
            assert!(!kind.is_in(text), "{kind} is seen in {text:?}");
        }
    }

    #[test]
    fn personal_data_is_known_by_its_shape_and_check_digits() {
        check(Kind::Email, &["write to a.b+c@mail.example.org."], &["a@b", "@example.org", "x"]);
        check(
            Kind::CreditCard,
            &["4111 1111 1111 1111", "card 5555-5555-5555-4444 please", "378282246310005"],
            &["4111 1111 1111 1112", "1234567890123456", "order 4242424242", "0000000000000000"],
        );
        check(
            Kind::Iban,
            &["DE89 3704 0044 0532 0130 00", "to GB29NWBK60161331926819 today"],
            &["DE88 3704 0044 0532 0130 00", "AB12 CDEF"],
        );
        check(
            Kind::Phone,
            &["+49 30 1234567", "call (415) 555-2671", "415-555-2671"],
            &["2024-05-12", "1234567890", "12 + 34", "version 1.2.3"],
        );
    }

    #[test]
    fn what_is_masked_says_what_it_was() {
        let (text, n_masked) =
            mask("ann@example.org, 4111 1111 1111 1111, or 415-555-2671; order 1234567890123456");
        let expect = "[an e-mail address], [a credit card number], or [a phone number]; order 1234567890123456";
        assert_eq!((text.as_str(), n_masked), (expect, 3));
        assert_eq!(mask("key AKIAIOSFODNN7EXAMPLE").0, "key [an AWS access key]");
        assert_eq!(mask("nothing here"), ("nothing here".to_owned(), 0));
    }

    #[test]
    fn secrets_are_known_by_their_shape() {
        let token = "x".repeat(36);
        assert_eq!(secret("AKIAIOSFODNN7EXAMPLE"), Some("an AWS access key"));
        assert_eq!(secret(&format!("ghp_{token}")), Some("a GitHub token"));
        assert_eq!(secret("-----BEGIN RSA PRIVATE KEY-----"), Some("a private key"));
        assert_eq!(secret("postgres://me:pw@host/db"), Some("a password in an address"));
        assert_eq!(secret(&format!("sk-{token}")), Some("an API key"));
        assert_eq!(secret("https://example.org/a:b@c is no secret, nor is sk-8"), None);
    }
}
