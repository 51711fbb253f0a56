//! What an object store's error says, in words that somebody can act on.
//!
//! It must never guess: what it does not know it passes on as it came.
//!
//! Start reading at [`Told::of`].

/// An error as it is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// HTTP's.
    pub(crate) status: Option<u16>,
    /// The store's name for what went wrong, such as `NoSuchBucket`.
    pub(crate) code: Option<String>,
    /// In one line.
    pub(crate) detail: String,
    /// What to do, with what separates it; empty when nothing is known.
    pub(crate) advice: &'static str,
}

/// Where machines of a cloud get their credentials, which is asked last of all.
const METADATA: [&str; 2] = ["169.254.169.254", "169.254.170.2"];

impl Told {
    pub(crate) fn of(error: &object_store::Error) -> Told {
        Told::read(&error.to_string())
    }

    /// The library tells status and answer in its text alone.
    fn read(text: &str) -> Told {
        let status = between(text, "status code: ", " ").and_then(|status| status.parse().ok());
        let code = between(text, "<Code>", "</Code>").map(str::to_owned);
        let message = between(text, "<Message>", "</Message>");
        let detail = match (status, &code) {
            (Some(status), Some(code)) => {
                let message = message.filter(|message| !message.is_empty());
                let message = message.map_or(String::new(), |message| format!(" ({message})"));
                format!("status {status} {code}{message}")
            }
            (Some(status), None) => format!("status {status}"),
            // The request itself is told by its action and key.
            (None, _) => {
                let last = text.rsplit_once(" - ").map_or(text, |(_, last)| last);
                last.strip_prefix("HTTP error: ").unwrap_or(last).to_owned()
            }
        };
        let advice = if METADATA.iter().any(|address| text.contains(address)) {
            "; no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`aws \
             configure export-credentials --format env` writes those of a profile)"
        } else {
            advice(status, code.as_deref(), text)
        };
        Told { status, code, detail, advice }
    }
}

fn advice(status: Option<u16>, code: Option<&str>, text: &str) -> &'static str {
    match (status, code) {
        (_, Some("SignatureDoesNotMatch")) => "; check AWS_SECRET_ACCESS_KEY",
        (_, Some("InvalidAccessKeyId")) => "; check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
        (_, Some("ExpiredToken" | "InvalidToken")) => "; get new credentials (AWS_SESSION_TOKEN)",
        (_, Some("RequestTimeTooSkewed")) => "; set this machine's clock",
        (_, Some("NoSuchBucket")) => "; create the bucket, or check its name and AWS_ENDPOINT_URL",
        (_, Some("AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect"))
        | (Some(301 | 307 | 308), _) => "; set AWS_REGION to the bucket's region",
        (Some(401 | 403), _) => {
            "; these credentials need s3:ListBucket, s3:GetObject, and to push s3:PutObject"
        }
        (Some(501), _) => "; this store lacks something that is needed here",
        (Some(429 | 500..=599), _) => "; try again later: what was moved stays",
        (None, _) if text.contains("redirect") => "; set AWS_REGION to the bucket's region",
        (None, _) if text.contains("peer certificate") => {
            "; AWS_CA_BUNDLE names a file with the certificates to trust"
        }
        (None, _) if text.contains("cannot connect") => {
            "; check AWS_ENDPOINT_URL, AWS_REGION and the network"
        }
        (None, _) => "; try again: what was moved stays",
        _ => "",
    }
}

/// What is between the first `begin` and the next `end`, or the end of the text.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end).map_or(rest, |(found, _)| found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, detail: &str, advice: &str) {
        let told = Told::read(text);
        assert_eq!(told.detail, detail);
        assert!(told.advice.contains(advice), "{}", told.advice);
    }

    #[test]
    fn a_refusal_names_status_code_and_what_to_do() {
        let request = "Error performing PUT http://127.0.0.1:9/b/k in 1.2ms - ";
        let refused = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\
            <Error><Code>SignatureDoesNotMatch</Code><Message>It is wrong.</Message></Error>";
        let detail = "status 403 SignatureDoesNotMatch (It is wrong.)";
        check(&format!("{request}{refused}"), detail, "AWS_SECRET_ACCESS_KEY");
        let busy = "Server returned non-2xx status code: 503 Service Unavailable: ";
        check(&format!("{request}{busy}"), "status 503", "try again later");
        let moved = "Server returned non-2xx status code: 301 Moved Permanently: ";
        check(&format!("{request}{moved}"), "status 301", "AWS_REGION");
        let refused = "HTTP error: cannot connect: Connection refused (os error 111)";
        let detail = "cannot connect: Connection refused (os error 111)";
        check(&format!("{request}{refused}"), detail, "AWS_ENDPOINT_URL");
    }

    #[test]
    fn without_credentials_it_says_which_are_wanted() {
        let text = "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token \
            in 5s - HTTP error: cannot connect: deadline has elapsed";
        check(text, "cannot connect: deadline has elapsed", "AWS_ACCESS_KEY_ID");
    }
}
