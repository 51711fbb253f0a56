//! A timeline in plain words: what a request waited for, and behind whom.
//!
//! It must never read anything but the timeline.
//!
//! Start reading at the `Display` of [`TimelinePage`].

use std::fmt::{self, Display, Formatter};

use lm_store::StoredMiss;

use crate::timeline::name;
use crate::{AnswerTimeline, TimelinePage, Utc};

/// A wait that nobody feels.
const NO_WAIT_MS: f64 = 1.0;
/// Gaps this many times longer than the mean are told.
const LONG_GAP: f64 = 2.0;
/// Chunks that are told one by one.
const N_CHUNKS: usize = 8;

impl Display for TimelinePage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let at = Utc(self.arrived_at_ms);
        writeln!(f, "request {}, {} on {}, {at}", self.id, self.priority, self.model)?;
        if let Some(trace) = &self.trace_id {
            writeln!(f, "trace {trace}")?;
        }
        if let Some(arm) = &self.arm {
            let (name, side, percent) = (&arm.experiment, arm.arm, arm.percent);
            let of = arm.shadow_of.as_ref().map_or(String::new(), |id| format!(", a copy of {id}"));
            writeln!(f, "experiment {name}: {side} at {percent} %, variant {}{of}", arm.variant)?;
        }
        self.answers.iter().try_for_each(|answer| write_answer(f, answer))
    }
}

fn write_answer(f: &mut Formatter<'_>, answer: &AnswerTimeline) -> fmt::Result {
    let (choice, state) = (answer.choice, &answer.state);
    writeln!(f, "\nanswer {choice}: {state} after {}", Ms(answer.ended_ms))?;
    if let Some(id) = &answer.computed_by {
        return writeln!(f, "  cache    from the response cache, computed by request {id}");
    }
    write_parts(f, answer)?;
    if !answer.is_recorded {
        return writeln!(f, "  it was answered by a version that recorded no more");
    }
    write_queue(f, answer)?;
    write_cache(f, answer)?;
    write_chunks(f, answer)?;
    if let Some((least, mean, most)) = answer.batch {
        let n = answer.n_steps;
        writeln!(f, "  batch    {n} steps, {least} to {most} answers in each, {mean} on average")?;
    }
    for loss in &answer.displaced {
        let by = loss.by.as_ref().map_or(String::new(), |by| format!(" for {by}"));
        let what = match loss.kind.as_str() {
            "preempted" => "its KV blocks were taken, and it was computed again",
            _ => "it lost its slot and kept its KV blocks",
        };
        let away = loss.away_ms.map_or("; it did not come back".to_owned(), |away| {
            format!("; it went on after {}", Ms(away))
        });
        writeln!(f, "  {:<8} at {}{by}: {what}{away}", loss.kind, Ms(loss.at_ms))?;
    }
    write_gaps(f, answer)
}

/// Where the time went.
fn write_parts(f: &mut Formatter<'_>, answer: &AnswerTimeline) -> fmt::Result {
    write!(f, "  time     {} in the queue", Ms(answer.queue_wait_ms))?;
    let Some(ttft) = answer.ttft_ms else { return writeln!(f, "; no token came") };
    write!(f, ", {} for the prompt", Ms(ttft - answer.queue_wait_ms))?;
    let (rest, n) = (answer.ended_ms - ttft, answer.completion_tokens);
    match n {
        0 | 1 => writeln!(f, ", {} for the rest", Ms(rest)),
        n => writeln!(f, ", {} for {n} tokens, {} each", Ms(rest), Ms(mean_gap(answer))),
    }
}

fn write_queue(f: &mut Formatter<'_>, answer: &AnswerTimeline) -> fmt::Result {
    let ahead = &answer.ahead;
    if answer.queue_wait_ms < NO_WAIT_MS {
        return writeln!(f, "  queue    it did not wait");
    }
    let mut reasons = Vec::new();
    if ahead.n_running >= ahead.n_slots && ahead.n_slots > 0 {
        reasons.push(format!("all {} slots were taken", ahead.n_slots));
    } else if ahead.n_running > 0 {
        reasons.push(format!("{} answers ran", ahead.n_running));
    }
    if ahead.n_free_blocks < ahead.n_prompt_blocks {
        let (free, wanted) = (ahead.n_free_blocks, ahead.n_prompt_blocks);
        reasons.push(format!("its prompt takes up to {wanted} KV blocks, and {free} were free"));
    }
    if ahead.n_waiting > 0 {
        reasons.push(format!("{} waited before it", ahead.n_waiting));
    }
    if reasons.is_empty() {
        reasons.push("nobody was before it; the engine was between two steps".to_owned());
    }
    writeln!(f, "  queue    {}: {}", Ms(answer.queue_wait_ms), reasons.join("; "))?;
    if !ahead.behind.is_empty() {
        let last: Vec<String> = ahead.behind.iter().map(name).collect();
        writeln!(f, "           {} began meanwhile, at last {}", ahead.n_began, last.join(", "))?;
    }
    Ok(())
}

fn write_cache(f: &mut Formatter<'_>, answer: &AnswerTimeline) -> fmt::Result {
    let (cached, prompt) = (answer.cached_tokens, answer.prompt_tokens);
    let blocks = answer.cached_blocks;
    write!(f, "  cache    {cached} of {prompt} prompt tokens were there, in {blocks} KV blocks")?;
    match &answer.first_miss {
        None => writeln!(f),
        Some(StoredMiss { block, reason }) => {
            writeln!(f, "; block {block} was not: {}", miss_words(reason))
        }
    }
}

fn miss_words(reason: &str) -> &str {
    match reason {
        "never_seen" => "nobody of this key has computed this beginning, as far as is remembered",
        "evicted" => "it had been computed, and its memory was given to others since",
        "partial_block" => "what is left is less than a block, or holds the last token",
        "corrupt" => "its file on disk was torn or changed",
        "unreadable" => "its file on disk could not be read in time",
        "disabled" => "the prefix cache is off",
        other => other,
    }
}

fn write_chunks(f: &mut Formatter<'_>, answer: &AnswerTimeline) -> fmt::Result {
    for (i, chunk) in answer.prefill.iter().take(N_CHUNKS).enumerate() {
        let word = if i == 0 { "prompt" } else { "" };
        let again = if chunk.again { ", again" } else { "" };
        let (n, start, batch) = (chunk.n_tokens, chunk.start, chunk.batch);
        let (took, at) = (Ms(chunk.took_ms), Ms(chunk.at_ms));
        writeln!(
            f,
            "  {word:<8} {n} tokens from {start}{again} in {took} at {at}, step {} of {batch} answers",
            chunk.step
        )?;
    }
    let n_more = (answer.n_prefill as usize).saturating_sub(answer.prefill.len().min(N_CHUNKS));
    if n_more > 0 {
        writeln!(f, "           and {n_more} chunks more")?;
    }
    Ok(())
}

fn write_gaps(f: &mut Formatter<'_>, answer: &AnswerTimeline) -> fmt::Result {
    let longest = LONG_GAP * mean_gap(answer);
    let mut word = "gaps";
    for gap in answer.largest_gaps.iter().filter(|gap| gap.ms > longest) {
        let (ms, at) = (Ms(gap.ms), Ms(gap.at_ms));
        writeln!(f, "  {word:<8} {ms} before token {} at {at}: {}", gap.before_token, gap.because)?;
        word = "";
    }
    if word == "gaps" && answer.completion_tokens > 1 {
        writeln!(f, "  gaps     none was twice as long as the mean")?;
    }
    for stall in &answer.stalls {
        let (took, predicted) = (Ms(stall.took_ms), Ms(stall.predicted_ms));
        let at = Ms(stall.at_ms);
        writeln!(
            f,
            "  slow     {took} at {at} where {predicted} was predicted: {}",
            stall.because
        )?;
    }
    Ok(())
}

fn mean_gap(answer: &AnswerTimeline) -> f64 {
    let rest = answer.ended_ms - answer.ttft_ms.unwrap_or(answer.ended_ms);
    rest / f64::from(answer.completion_tokens.saturating_sub(1).max(1))
}

/// Milliseconds for people.
struct Ms(f64);

impl Display for Ms {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms >= 10_000.0 => write!(f, "{:.1} s", ms / 1e3),
            ms if ms >= 100.0 => write!(f, "{ms:.0} ms"),
            ms if ms >= 1.0 => write!(f, "{ms:.1} ms"),
            ms => write!(f, "{:.0} us", ms * 1e3),
        }
    }
}
