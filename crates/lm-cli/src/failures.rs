//! `lastmile failures`, `lastmile review` and `lastmile learn`: what went wrong, and how fast one learns from it.

use std::collections::HashSet;
use std::io::Write;

use lm_feedback::{Book, Decision, FailureRow, FeedbackError, Fix, Stage};
use lm_ops::{Reader, Utc};
use serde_json::{Value, json};

use crate::doctor::store_path;
use crate::loop_args::{FailuresArgs, FailuresVerb, LearnArgs, ReviewArgs, ReviewVerb};
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, print_json, say};
use crate::store_books::{book_place, book_places, warn_of_left_behind};

/// The store and what was concluded from it, up to now.
pub(crate) struct Loop {
    pub(crate) book: Book,
    pub(crate) reader: Reader,
    pub(crate) now_ms: i64,
}

const DAY_MS: f64 = 86_400_000.0;
const SHOWN_CHARS: usize = 600;

impl Loop {
    /// Opens both, and reads what is new in the store.
    pub(crate) fn open() -> anyhow::Result<Loop> {
        let home = home()?;
        let store = store_path(home.path());
        let reader = Reader::open(&store)?;
        warn_of_left_behind(home.path(), &store);
        let mut book = Book::open(&book_place(home.path(), &store))?;
        let now_ms = now_ms();
        book.collect(&reader, now_ms)?;
        Ok(Loop { book, reader, now_ms })
    }

    /// Fixes that a dataset guards, those included that stayed in this home's file: what they promise holds.
    pub(crate) fn guarded(&self) -> anyhow::Result<Vec<Fix>> {
        let home = home()?;
        let mut fixes = self.book.fixes()?;
        for place in book_places(home.path(), &store_path(home.path())).iter().skip(1) {
            if Book::may_be_at(place) {
                fixes.extend(Book::open(place)?.fixes()?);
            }
        }
        let mut seen = HashSet::new();
        fixes.retain(|fix| fix.gate.is_some() && seen.insert(fix.id.clone()));
        Ok(fixes)
    }

    /// So many days ago, in Unix milliseconds; `option` is where that was said.
    pub(crate) fn days_ago(&self, option: &str, days: f64) -> anyhow::Result<i64> {
        if days.is_nan() || days <= 0.0 {
            return Err(WrongUse(format!("--{option} is {days}, but must be more than 0")).into());
        }
        Ok(self.now_ms.saturating_sub((days * DAY_MS) as i64).max(0))
    }

    /// A failure with its request, as far as the store still has it.
    fn document(&self, failure: &FailureRow) -> anyhow::Result<Value> {
        let request = match failure.request_id.parse() {
            Ok(id) => self.reader.request(id)?,
            Err(_) => None,
        };
        let mut document = serde_json::to_value(failure)?;
        document["tags"] = self.book.tags(&failure.request_id, failure.choice)?.into();
        document["request"] = serde_json::to_value(request)?;
        Ok(document)
    }
}

pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

/// What the caller can put right by calling otherwise.
pub(crate) fn wrong_use(error: FeedbackError) -> anyhow::Error {
    match error {
        FeedbackError::Unknown { .. }
        | FeedbackError::Invalid { .. }
        | FeedbackError::Reviewed { .. }
        | FeedbackError::NotReviewed { .. } => WrongUse(error.to_string()).into(),
        other => other.into(),
    }
}

pub(crate) fn failures(args: &FailuresArgs) -> anyhow::Result<Outcome> {
    let mut at = Loop::open()?;
    match &args.verb {
        FailuresVerb::Top { days, limit, json } => top(&at, *days, *limit, *json)?,
        FailuresVerb::List { cluster, limit, json } => {
            let cluster = cluster.as_deref().map(|id| at.book.cluster(id)).transpose();
            let rows = at.book.failures(cluster.map_err(wrong_use)?.as_deref(), *limit)?;
            if *json {
                print_json(&rows)?;
            }
            for row in rows.iter().filter(|_| !json) {
                let verdict = row.verdict.as_deref().unwrap_or("not reviewed");
                let (at, id, kinds) = (Utc(row.occurred_at_ms), &row.request_id, &row.kinds);
                say!("{at}  {id}  {}  {kinds}  {verdict}", row.cluster);
            }
        }
        FailuresVerb::Show { cluster, limit, json } => {
            let cluster = at.book.cluster(cluster).map_err(wrong_use)?;
            let rows = at.book.failures(Some(&cluster), *limit)?;
            let documents =
                rows.iter().map(|row| at.document(row)).collect::<Result<Vec<_>, _>>()?;
            if *json {
                print_json(&documents)?;
            } else {
                documents.iter().try_for_each(show)?;
            }
        }
        FailuresVerb::Effort { cluster, days } => {
            let cluster = at.book.cluster(cluster).map_err(wrong_use)?;
            at.book.set_effort(&cluster, *days).map_err(wrong_use)?;
            say!("{cluster} takes {days} days");
        }
    }
    Ok(Outcome::Done)
}

fn top(at: &Loop, days: f64, limit: usize, json: bool) -> anyhow::Result<()> {
    let mut ranked = at.book.ranked(&at.reader, at.days_ago("days", days)?, at.now_ms)?;
    ranked.truncate(limit);
    if json {
        return print_json(&ranked);
    }
    if ranked.is_empty() {
        say!("no failures in {days} days");
        return Ok(());
    }
    say!("cluster        score   failures  of answers  surely over  newer half  kind");
    for row in &ranked {
        say!(
            "{}  {:.4}  {:8}  {:10}  {:9.2} %  {:10}  {}",
            row.cluster,
            row.score,
            row.n_failures,
            row.n_answers,
            100.0 * row.rate_low,
            row.n_recent,
            row.fingerprint
        );
    }
    Ok(())
}

fn show(document: &Value) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let short = |text: &str| -> String { text.chars().take(SHOWN_CHARS).collect() };
    let at = Utc(document["occurred_at_ms"].as_i64().unwrap_or_default());
    say!("{at}  {}  {}", text(&document["request_id"]), text(&document["kinds"]));
    let request = &document["request"];
    let prompt = &request["prompt"];
    if prompt.is_null() {
        say!("  the texts were not kept, or are gone");
    }
    for message in prompt["messages"].as_array().unwrap_or(&Vec::new()) {
        say!("  {}: {}", text(&message["role"]), short(&text(&message["content"])));
    }
    if let Some(prompt) = prompt["text"].as_str() {
        say!("  prompt: {}", short(prompt));
    }
    let attempts = request["attempts"].as_array();
    let attempt =
        attempts.and_then(|all| all.iter().find(|one| one["choice"] == document["choice"]));
    if let Some(attempt) = attempt {
        match attempt["error_code"].as_str() {
            Some(code) => say!("  error: {code}"),
            None => say!("  answer: {}", short(&text(&attempt["output_text"]))),
        }
    }
    if let Some(correction) = document["correction"].as_str() {
        say!("  should be: {}", short(correction));
    }
    Ok(())
}

pub(crate) fn review(args: &ReviewArgs) -> anyhow::Result<Outcome> {
    let mut at = Loop::open()?;
    let (answer, decision) = match &args.verb {
        ReviewVerb::Next { json } => return next(&mut at, &args.reviewer, *json),
        ReviewVerb::Accept { answer } => (answer, Decision::Accept),
        ReviewVerb::Reject { answer } => (answer, Decision::Reject),
        ReviewVerb::Correct { answer, text } => (answer, Decision::Correct(text.clone())),
        ReviewVerb::Tag { answer, tag } => (answer, Decision::Tag(tag.clone())),
        ReviewVerb::Undo { answer } => {
            let back = at.book.take_back(answer, &args.reviewer, at.now_ms).map_err(wrong_use)?;
            say!("{}: waits for a verdict again", back.answer);
            return Ok(Outcome::Done);
        }
        ReviewVerb::GiveBack => {
            say!("{} given back", at.book.give_back(&args.reviewer)?);
            return Ok(Outcome::Done);
        }
    };
    let done = at.book.review(answer, &decision, &args.reviewer, at.now_ms);
    let answer = done.map_err(wrong_use)?;
    say!(
        "{answer}: {}",
        match decision {
            Decision::Accept => "a failure",
            Decision::Reject => "no failure",
            Decision::Correct(_) => "corrected",
            Decision::Tag(_) => "tagged",
        }
    );
    Ok(Outcome::Done)
}

fn next(at: &mut Loop, reviewer: &str, json: bool) -> anyhow::Result<Outcome> {
    let Some(item) = at.book.lease(reviewer, at.now_ms)? else {
        if json {
            print_json(&Value::Null)?;
        } else {
            say!("nothing waits for a review");
        }
        return Ok(Outcome::Done);
    };
    let mut document = at.document(&item.failure)?;
    if json {
        document["answer"] = item.answer.into();
        document["leased_until_ms"] = item.leased_until_ms.into();
        document["chosen"] = item.chosen.into();
        document["n_waiting"] = item.n_waiting.into();
        print_json(&document)?;
    } else {
        show(&document)?;
        let (answer, until) = (&item.answer, Utc(item.leased_until_ms));
        say!("yours until {until} ({}); {} wait besides", item.chosen, item.n_waiting);
        say!("lastmile review accept|reject {answer}");
    }
    Ok(Outcome::Done)
}

pub(crate) fn learn(args: &LearnArgs) -> anyhow::Result<Outcome> {
    let at = Loop::open()?;
    let learning = at.book.learning(at.days_ago("days", args.days)?)?;
    if args.json {
        print_json(&learning)?;
        return Ok(Outcome::Done);
    }
    say!("{} failures in {} days", learning.n_failures, args.days);
    let stages = [
        ("failed -> noticed", learning.noticed),
        ("noticed -> clustered", learning.clustered),
        ("clustered -> fixed", learning.fixed),
        ("fixed -> verified", learning.verified),
        ("failed -> verified", learning.whole),
    ];
    for (name, Stage { n, median_s, p90_s }) in stages {
        let time = |seconds: Option<f64>| seconds.map_or("-".to_owned(), human_time);
        say!("{name:22} {n:8}   median {:>9}   p90 {:>9}", time(median_s), time(p90_s));
    }
    Ok(Outcome::Done)
}

fn human_time(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} d", s / 86_400.0),
    }
}

/// For the report of a gate: one line for an answer that did not pass.
pub(crate) fn failed_line(question: &str, why: &str) -> Value {
    let question: String = question.chars().take(200).collect();
    json!({ "question": question, "why": why })
}
