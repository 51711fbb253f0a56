//! Alerts of what works beside the engine: threads that do not, what never has its turn, and experiments that ended by
//! themselves or cannot go on.
//!
//! It must never remember: an alert is a fact about one [`Now`].
//!
//! Start reading at [`alerts`].

use crate::alert::{critical, warning};
use crate::{Alert, Now, OverdueNow, RolledBackNow, ThreadNow, TroubledNow};

/// A round takes far less.
const MOST_IDLE_MS: u64 = 60_000;
/// A disk may be busy for so long.
const MOST_FAILING_MS: u64 = 10_000;
/// Most servers are idle for a moment in less.
const MOST_OVERDUE_S: u64 = 30 * 60;
/// An experiment that ended by itself is told of for so long.
const ROLLED_BACK_TOLD_MS: i64 = 24 * 60 * 60 * 1000;

pub(crate) fn alerts(now: &Now, found: &mut Vec<Alert>) {
    now.server.troubled_threads.iter().for_each(|thread| of_thread(thread, found));
    let is_late = |one: &&OverdueNow| one.seconds > MOST_OVERDUE_S;
    found.extend(now.server.overdue.iter().filter(is_late).map(of_overdue));
    let is_told =
        |one: &&RolledBackNow| (now.at_ms - one.at_ms).unsigned_abs() < ROLLED_BACK_TOLD_MS as u64;
    found.extend(now.server.rolled_back.iter().filter(is_told).map(of_rollback));
    found.extend(now.server.troubled_experiments.iter().map(of_experiment));
}

/// What nobody attends to while a thread does not do its work.
fn unattended(thread: &str) -> &'static str {
    match thread {
        "lm-experiments" => "experiments are neither weighed nor rolled back",
        "lm-overrides" => "hits are not counted, and what is changed at a terminal does not hold",
        "lm-monitors" => "answers are not watched",
        "lm-ingest" => "rows that were sent wait on the disk and are not added",
        _ => "its work is not done",
    }
}

fn of_thread(thread: &ThreadNow, found: &mut Vec<Alert>) {
    let ThreadNow { name, panics, last_panic, idle_ms, failing, failing_ms } = thread;
    let lost = unattended(name);
    if *idle_ms > MOST_IDLE_MS {
        let seconds = idle_ms / 1000;
        found.push(critical(
            &format!("thread {name}"),
            format!("The thread {name} did not go round for {seconds} s: {lost}"),
            "Look at the log and at the disk; restart the server.",
        ));
    } else if *failing_ms > MOST_FAILING_MS {
        let seconds = failing_ms / 1000;
        found.push(warning(
            &format!("thread {name}"),
            format!(
                "The thread {name} cannot do its work for {seconds} s, so that {lost}: {failing}"
            ),
            "Look at the file that it names, and at the disk.",
        ));
    }
    if *panics > 0 {
        found.push(warning(
            &format!("panic {name}"),
            format!(
                "Since start the thread {name} panicked {panics} times and went on: {last_panic}"
            ),
            "This is a bug: the log has where. What it worked on at the time may not be done.",
        ));
    }
}

fn of_overdue(one: &OverdueNow) -> Alert {
    let minutes = one.seconds / 60;
    let (what, lost) = match one.work.as_str() {
        "copy" => ("a copy for an experiment's candidate", "its first stage learns nothing"),
        _ => ("a probe", "nobody would see that answers are other ones"),
    };
    warning(
        &format!("overdue {}", one.work),
        format!("For {minutes} min {what} has waited for an idle slot: {lost}"),
        "It needs a moment in which nobody asks: take load away. `POST /ops/v1/requests/ID/replay` computes at once.",
    )
}

fn of_rollback(one: &RolledBackNow) -> Alert {
    let RolledBackNow { experiment, model, stage, why, .. } = one;
    warning(
        &format!("rolled back {experiment}"),
        format!("{model}: the experiment {experiment} was rolled back from {stage}: {why}"),
        "The primary answers again. `lastmile exp explain` has the evidence; a new experiment takes its place.",
    )
}

fn of_experiment(one: &TroubledNow) -> Alert {
    let TroubledNow { experiment, model, stage, why } = one;
    warning(
        &format!("experiment {experiment}"),
        format!("{model}: the experiment {experiment} cannot go on from {stage}: {why}"),
        "`lastmile exp status` has the numbers. Take it back with `lastmile exp rollback`, or mend what it names.",
    )
}

#[cfg(test)]
mod tests {
    use crate::{Level, Now, OverdueNow, RolledBackNow, ThreadNow, TroubledNow, alerts};

    #[track_caller]
    fn check(change: impl FnOnce(&mut Now), expect: &[(Level, &str, &str)]) {
        let mut now = Now { at_ms: 100_000_000, ..Now::default() };
        change(&mut now);
        let found: Vec<_> =
            alerts(&now).into_iter().map(|one| (one.level, one.key, one.what)).collect();
        let expect: Vec<_> = expect
            .iter()
            .map(|(level, key, what)| (*level, (*key).to_owned(), (*what).to_owned()))
            .collect();
        assert_eq!(found, expect);
    }

    fn thread(change: impl FnOnce(&mut ThreadNow)) -> impl FnOnce(&mut Now) {
        let mut thread = ThreadNow { name: "lm-experiments".to_owned(), ..ThreadNow::default() };
        change(&mut thread);
        |now: &mut Now| now.server.troubled_threads = vec![thread]
    }

    #[test]
    fn a_thread_that_does_not_do_its_work_is_named_with_what_is_lost() {
        check(thread(|one| one.idle_ms = 60_000), &[]);
        let idle = "The thread lm-experiments did not go round for 61 s: experiments are neither weighed nor rolled back";
        let idle = [(Level::Critical, "thread lm-experiments", idle)];
        check(thread(|one| one.idle_ms = 61_000), &idle);
        let failing = |one: &mut ThreadNow| {
            (one.failing, one.failing_ms) = ("the disk is full".to_owned(), 11_000);
        };
        let what = "The thread lm-experiments cannot do its work for 11 s, so that experiments are neither weighed nor \
                    rolled back: the disk is full";
        check(thread(failing), &[(Level::Warning, "thread lm-experiments", what)]);
        let panicked = |one: &mut ThreadNow| {
            (one.panics, one.last_panic) = (2, "index out of bounds".to_owned());
        };
        let what = "Since start the thread lm-experiments panicked 2 times and went on: index out of bounds";
        check(thread(panicked), &[(Level::Warning, "panic lm-experiments", what)]);
    }

    #[test]
    fn rows_that_cannot_be_added_are_told_of() {
        let failing = |one: &mut ThreadNow| {
            one.name = "lm-ingest".to_owned();
            (one.failing, one.failing_ms) = ("mails: it is damaged".to_owned(), 11_000);
        };
        let what = "The thread lm-ingest cannot do its work for 11 s, so that rows that were sent wait on the disk and \
                    are not added: mails: it is damaged";
        check(thread(failing), &[(Level::Warning, "thread lm-ingest", what)]);
    }

    #[test]
    fn what_never_has_its_turn_is_told_of() {
        let waits = |work: &str, seconds| {
            let overdue = vec![OverdueNow { work: work.to_owned(), seconds }];
            |now: &mut Now| now.server.overdue = overdue
        };
        check(waits("probe", 1800), &[]);
        let what = "For 31 min a probe has waited for an idle slot: nobody would see that answers are other ones";
        check(waits("probe", 1860), &[(Level::Warning, "overdue probe", what)]);
        let what = "For 60 min a copy for an experiment's candidate has waited for an idle slot: its first stage learns nothing";
        check(waits("copy", 3600), &[(Level::Warning, "overdue copy", what)]);
    }

    #[test]
    fn an_experiment_that_ended_by_itself_is_told_of_for_a_day() {
        let ended = |ago_ms: i64| {
            move |now: &mut Now| {
                now.server.rolled_back = vec![RolledBackNow {
                    experiment: "polite".to_owned(),
                    model: "m".to_owned(),
                    stage: "5%".to_owned(),
                    why: "ttft_ms is worse".to_owned(),
                    at_ms: now.at_ms - ago_ms,
                }];
            }
        };
        let what = "m: the experiment polite was rolled back from 5%: ttft_ms is worse";
        check(ended(1000), &[(Level::Warning, "rolled back polite", what)]);
        check(ended(24 * 60 * 60 * 1000), &[]);
    }

    #[test]
    fn an_experiment_that_cannot_go_on_is_told_of() {
        let troubled = |now: &mut Now| {
            now.server.troubled_experiments = vec![TroubledNow {
                experiment: "polite".to_owned(),
                model: "m".to_owned(),
                stage: "5 %".to_owned(),
                why: "sample ratio mismatch".to_owned(),
            }];
        };
        let what = "m: the experiment polite cannot go on from 5 %: sample ratio mismatch";
        check(troubled, &[(Level::Warning, "experiment polite", what)]);
    }
}
