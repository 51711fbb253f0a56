//! A mail of RFC 5322 as a JSON object: who, when, about what, and its text.
//!
//! It must never publish a guess: damage in headers, charset, encoding or body breaks a rule; where re-reading
//! helps, the outcome is proposed as a repair.
//!
//! Start reading at [`row`].

use mail_parser::{Address, Encoding, Message, MessageParser, MessagePart, MimeHeaders, PartType};
use serde_json::{Value, json};

use crate::check::{Repair, Violation, rule};

/// The mail's row, or what is damaged in it.
pub(crate) fn row(bytes: &[u8]) -> Result<Value, Violation> {
    read(bytes).map_err(|violation| {
        let charset = [rule::MAIL_CHARSET, rule::MAIL_HEADERS].contains(&violation.rule.as_ref());
        match charset.then(|| read(&as_utf8(bytes))) {
            Some(Ok(row)) => violation.with_repair(Repair {
                kind: "decoded_as_windows_1252".into(),
                row: row.to_string(),
            }),
            _ => violation,
        }
    })
}

fn read(bytes: &[u8]) -> Result<Value, Violation> {
    let mail = without_from_line(bytes);
    check_headers(mail)?;
    let Some(message) = MessageParser::default().parse(mail) else {
        return Err(Violation::new(rule::MAIL_HEADERS, "there are no headers"));
    };
    let from = addresses(message.from().or_else(|| message.sender()));
    if from.is_empty() {
        return Err(Violation::new(rule::MAIL_HEADERS, "neither From nor Sender has an address"));
    }
    check_parts(mail, &message)?;
    let text = message.body_text(0).unwrap_or_default();
    if text.trim().is_empty() {
        return Err(Violation::new(rule::MAIL_EMPTY, "the mail has no text"));
    }
    let subject = message.subject().unwrap_or_default();
    if let Some(place) = [("Subject", subject), ("the text", text.as_ref())]
        .iter()
        .find(|(_, text)| text.contains('\u{fffd}'))
    {
        let detail = format!("{} has characters that cannot be decoded", place.0);
        return Err(Violation::new(rule::MAIL_CHARSET, detail));
    }
    let date = message.date().filter(|date| date.is_valid()).map(|date| date.to_rfc3339());
    Ok(json!({
        "from": from.join(", "),
        "to": addresses(message.to()).join(", "),
        "subject": subject,
        "date": date,
        "message_id": message.message_id(),
        "text": text,
        "n_attachments": message.attachment_count(),
    }))
}

fn addresses(address: Option<&Address<'_>>) -> Vec<String> {
    let Some(address) = address else { return Vec::new() };
    let text = |addr: &mail_parser::Addr<'_>| match (addr.name(), addr.address()) {
        (Some(name), Some(address)) => Some(format!("{name} <{address}>")),
        (None, Some(address)) => Some(address.to_owned()),
        (Some(name), None) => Some(name.to_owned()),
        (None, None) => None,
    };
    address.iter().filter_map(text).collect()
}

/// Mail stores put a `From sender date` line before the headers.
fn without_from_line(bytes: &[u8]) -> &[u8] {
    if !bytes.starts_with(b"From ") && !bytes.starts_with(b">From ") {
        return bytes;
    }
    memchr::memchr(b'\n', bytes).map_or(&[], |at| &bytes[at + 1..])
}

/// Each line up to the first empty one is a header or goes on with one, and is UTF-8 (RFC 6532).
fn check_headers(mail: &[u8]) -> Result<(), Violation> {
    let refuse = |detail: String| Err(Violation::new(rule::MAIL_HEADERS, detail));
    let mut n_headers = 0;
    for (i, line) in mail.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let number = i + 1;
        if std::str::from_utf8(line).is_err() {
            return refuse(format!("header line {number} is neither ASCII nor UTF-8"));
        }
        if matches!(line[0], b' ' | b'\t') && n_headers > 0 {
            continue;
        }
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        // White space before the colon is obsolete syntax, and allowed.
        let name = name.trim_ascii_end();
        let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        if !is_name || !line.contains(&b':') {
            return refuse(format!("line {number} is no header, and no empty line came before it"));
        }
        n_headers += 1;
    }
    if n_headers == 0 { refuse("there are no headers".to_owned()) } else { Ok(()) }
}

fn check_parts(mail: &[u8], message: &Message<'_>) -> Result<(), Violation> {
    for (i, part) in message.parts.iter().enumerate() {
        if part.is_encoding_problem {
            let encoding = match part.encoding {
                Encoding::None => "MIME structure",
                Encoding::QuotedPrintable => "quoted-printable",
                Encoding::Base64 => "base64",
            };
            let detail = format!("the {encoding} of part {i} is broken");
            return Err(Violation::new(rule::MAIL_ENCODING, detail));
        }
        let is_text = matches!(part.body, PartType::Text(_) | PartType::Html(_));
        if is_text && !part.is_content_type("message", "rfc822") {
            check_charset(mail, part, i)?;
        }
    }
    Ok(())
}

/// Text whose charset is not named or is ASCII has no bytes over 127.
fn check_charset(mail: &[u8], part: &MessagePart<'_>, i: usize) -> Result<(), Violation> {
    let charset =
        part.content_type().and_then(|kind| kind.attribute("charset")).unwrap_or("us-ascii");
    let charset = charset.trim();
    if encoding_rs::Encoding::for_label(charset.as_bytes()).is_none() {
        let charset: String = charset.chars().take(40).collect();
        let detail = format!("charset {charset:?} of part {i} is not known");
        return Err(Violation::new(rule::MAIL_CHARSET, detail));
    }
    if !charset.eq_ignore_ascii_case("us-ascii") || part.encoding != Encoding::None {
        return Ok(());
    }
    let range = part.offset_body as usize..part.offset_end as usize;
    let body = mail.get(range).unwrap_or_default();
    // Undeclared UTF-8 is common and cannot be anything else.
    if body.is_ascii() || std::str::from_utf8(body).is_ok() {
        return Ok(());
    }
    let at = body.iter().position(|byte| !byte.is_ascii()).unwrap_or(0);
    let (byte, offset) = (body[at], part.offset_body as usize + at);
    let detail =
        format!("byte {byte:#04x} at offset {offset} of the mail: its charset is not said");
    Err(Violation::new(rule::MAIL_CHARSET, detail))
}

/// The mail with its bytes over 127 read as windows-1252, what most mailers of its kind meant.
fn as_utf8(bytes: &[u8]) -> Vec<u8> {
    let (text, _, _) = encoding_rs::WINDOWS_1252.decode(bytes);
    let mut text = text.into_owned();
    let lower = text.to_ascii_lowercase();
    for (at, _) in lower.rmatch_indices("us-ascii") {
        text.replace_range(at..at + "us-ascii".len(), "utf-8");
    }
    text.into_bytes()
}
