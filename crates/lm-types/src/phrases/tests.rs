//! Phrases in texts that are cut everywhere.

use super::*;

fn rules(phrases: &[&str], ignore_case: bool) -> OutputRules {
    let ban = |phrase: &&str| Ban {
        rule: "r".into(),
        phrase: (*phrase).to_owned(),
        ignore_case,
        then: OnHit::Stop,
    };
    OutputRules::new(phrases.iter().map(ban).collect())
}

/// What a stream hands out before a phrase comes, if one comes.
fn stream(rules: &OutputRules, pieces: &[&str]) -> (String, bool) {
    let (mut pending, mut out) = (String::new(), String::new());
    for piece in pieces {
        pending.push_str(piece);
        match rules.scan(&pending) {
            PhraseScan::Safe(n) => out.extend(pending.drain(..n)),
            PhraseScan::Found { at, .. } => return (out + &pending[..at], true),
        }
    }
    (out + &pending, false)
}

/// Whole, character by character, and in three pieces cut at every two places.
#[track_caller]
fn check(rules: &OutputRules, text: &str, expect: &str, found: bool) {
    let expect = (expect.to_owned(), found);
    assert_eq!(stream(rules, &[text]), expect, "{text:?} whole");
    let cuts: Vec<usize> = (0..=text.len()).filter(|&i| text.is_char_boundary(i)).collect();
    let chars: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
    assert_eq!(stream(rules, &chars), expect, "{text:?} by character");
    for (i, &a) in cuts.iter().enumerate() {
        for &b in &cuts[i..] {
            let pieces = [&text[..a], &text[a..b], &text[b..]];
            assert_eq!(stream(rules, &pieces), expect, "{pieces:?}");
        }
    }
}

#[test]
fn a_phrase_is_found_however_the_text_is_cut() {
    let bad = rules(&["bad word", "😀é"], false);
    check(&bad, "a bad word here", "a ", true);
    check(&bad, "a bad wordless", "a ", true);
    check(&bad, "a bad wor", "a bad wor", false);
    check(&bad, "bbad word", "b", true);
    check(&bad, "Bad Word", "Bad Word", false);
    check(&bad, "x😀éy", "x", true);
    check(&bad, "x😀e", "x😀e", false);
    let any_case = rules(&["Straße"], true);
    check(&any_case, "die STRAßE", "die ", true);
    check(&rules(&["abab", "ba"], false), "xabab", "xa", true);
    check(&rules(&["aab"], false), "aaaab", "aa", true);
    check(&rules(&["longer phrase", "phrase"], false), "a longer phrase", "a ", true);
}

#[test]
fn escapes_of_json_hide_nothing() {
    let bad = rules(&["bad", "a\"b", "😀"], false);
    check(&bad, r#"{"x": "b\u0061d"}"#, r#"{"x": ""#, true);
    check(&bad, r#"{"x": "\u0062ad"}"#, r#"{"x": ""#, true);
    check(&bad, r#"{"x": "a\"b"}"#, r#"{"x": ""#, true);
    check(&bad, r#"{"x": "\ud83d\ude00"}"#, r#"{"x": ""#, true);
    check(&bad, r#"{"x": "\ud83d\u0061"}"#, r#"{"x": "\ud83d\u0061"}"#, false);
    check(&bad, r"b\u0063d \x \", r"b\u0063d \x \", false);
    check(&rules(&[r"C:\new"], false), r"at C:\new", "at ", true);
    check(&rules(&[r"C:\new"], false), r"at C:\\new", "at ", true);
}

#[test]
fn a_phrase_may_begin_in_what_is_told() {
    let bad = rules(&["secret", "cr"], false);
    assert_eq!(bad.open_end("a secret sec"), "sec");
    assert_eq!(bad.open_end("a secre"), "secre");
    assert_eq!(bad.open_end(r"a s\u0065"), r"s\u0065");
    assert_eq!(bad.open_end("nothing"), "");
    assert_eq!(bad.open_end(""), "");
    assert_eq!(bad.scan_after("secre", 5), PhraseScan::Safe(0), "what is told is told");
    assert_eq!(bad.scan_after("secret", 5), PhraseScan::Found { at: 0, ban: 0 });
    assert_eq!(bad.scan_after("secrcr", 5), PhraseScan::Found { at: 4, ban: 1 });
    assert_eq!(bad.scan_after("second", 3), PhraseScan::Safe(6));
}

#[test]
fn many_long_phrases_take_no_longer_than_few() {
    // Each position of the text fits the beginning of all of them.
    let phrases: Vec<String> = (0..4096).map(|n| format!("{}{n:04}", "a".repeat(200))).collect();
    let phrases: Vec<&str> = phrases.iter().map(String::as_str).collect();
    let bad = rules(&phrases, true);
    let began = std::time::Instant::now();
    for n in 1..200 {
        assert_eq!(bad.scan(&"A".repeat(n)), PhraseScan::Safe(0));
    }
    let text = format!("{}0815", "A".repeat(204));
    assert_eq!(bad.scan(&text), PhraseScan::Found { at: 4, ban: 815 });
    // Compared with each of them it takes minutes.
    assert!(began.elapsed().as_secs() < 20, "it took {:?}", began.elapsed());
}

#[test]
fn of_equal_phrases_the_first_counts() {
    let ban = |rule: &str, phrase: &str, ignore_case| Ban {
        rule: rule.into(),
        phrase: phrase.to_owned(),
        ignore_case,
        then: OnHit::Stop,
    };
    let bad = OutputRules::new(vec![
        ban("z", "Bad", true),
        ban("a", "bad", false),
        ban("b", "BAD", false),
    ]);
    assert_eq!(bad.scan("x bad"), PhraseScan::Found { at: 2, ban: 0 });
    let exact = OutputRules::new(vec![ban("z", "BAD", false), ban("a", "bad", false)]);
    assert_eq!(exact.scan("x bad"), PhraseScan::Found { at: 2, ban: 1 });
    assert_eq!(exact.scan("x Bad"), PhraseScan::Safe(5));
    assert_eq!(exact.scan("x ba"), PhraseScan::Safe(2));
}

#[test]
fn no_more_is_held_back_than_may_begin_a_phrase() {
    let bad = rules(&["bad word"], false);
    assert_eq!(bad.scan("nothing"), PhraseScan::Safe(7));
    assert_eq!(bad.scan("a bad w"), PhraseScan::Safe(2));
    assert_eq!(bad.scan("a bad x"), PhraseScan::Safe(7));
    assert_eq!(bad.scan(r"path\"), PhraseScan::Safe(4));
    assert_eq!(bad.scan(r"path\x"), PhraseScan::Safe(6));
}
