//! From traffic to evidence: reads what is new in the store, each answer and each opinion once.
//!
//! It must never move the evidence without the place up to which it was read, nor the other way round.
//!
//! Start reading at [`Book::collect`].

use lm_store::{Answered, Assigned, Place, Rating, Reader};
use lm_types::{Arm, ArmTag};
use rusqlite::{Connection, TransactionBehavior, params};
use serde::Serialize;

use crate::book::{json_at, json_of, word};
use crate::measure::waited;
use crate::tally::is_drawn;
use crate::{Book, Experiment, ExperimentError, Metric, Spec, Stage, Status, Tally, values};

/// What an answer has of a metric that its texts show; `None` when it has none.
pub type Measure<'a> = &'a dyn Fn(Metric, &Answered) -> Option<f64>;

/// The interval of the goal at some time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Answers of both arms.
    pub n: u64,
    /// Unix milliseconds.
    pub at_ms: i64,
    /// The stage.
    pub stage: String,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

const PAGE: u32 = 500;
/// Feedback is read again for so long: what was committed late is not lost.
const LATE_MS: i64 = 60_000;
/// And so often at most.
const HEAR_EVERY_MS: i64 = 1000;
/// Points of a chart are at least so far apart.
const MIN_STEP: u64 = 10;

impl Book {
    /// Weighs the next of what came since the last time, all of it or, when it is interrupted, nothing; whether there may
    /// be more.
    ///
    /// # Errors
    /// [`ExperimentError::Store`], [`ExperimentError::Database`], [`ExperimentError::Unknown`].
    pub fn collect(
        &mut self,
        reader: &Reader,
        name: &str,
        measure: Measure<'_>,
        now_ms: i64,
    ) -> Result<bool, ExperimentError> {
        let experiment = self.experiment(name)?;
        if experiment.status != Status::Running {
            return Ok(false);
        }
        self.collect_page(reader, &experiment, measure, now_ms)
    }

    /// How the interval of the goal came about, oldest first.
    ///
    /// # Errors
    /// [`ExperimentError::Database`].
    pub fn points(&self, name: &str) -> Result<Vec<Point>, ExperimentError> {
        let read = || -> rusqlite::Result<Vec<Point>> {
            self.connection
                .prepare_cached(
                    "SELECT n, at_ms, stage, low, high FROM point WHERE experiment = ?1 ORDER BY n",
                )?
                .query_map([name], |row| {
                    Ok(Point {
                        n: row.get::<_, i64>(0)?.cast_unsigned(),
                        at_ms: row.get(1)?,
                        stage: row.get(2)?,
                        low: row.get(3)?,
                        high: row.get(4)?,
                    })
                })?
                .collect()
        };
        read().map_err(self.wrap("read"))
    }

    fn collect_page(
        &mut self,
        reader: &Reader,
        experiment: &Experiment,
        measure: Measure<'_>,
        now_ms: i64,
    ) -> Result<bool, ExperimentError> {
        let (spec, wrap) = (&experiment.spec, self.wrap("write"));
        let place = |connection: &Connection| {
            let sql = "SELECT seq, feedback_ms FROM evidence WHERE experiment = ?1";
            connection.query_row(sql, [&spec.name], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })
        };
        let (seq, heard_ms) = place(&self.connection).map_err(&wrap)?;
        let wants_feedback =
            metrics(spec).any(Metric::is_feedback) && (now_ms - heard_ms).abs() >= HEAR_EVERY_MS;
        // A store that was put back to an earlier day gives numbers again: what it has then was read before.
        let seq = seq.min(reader.last_assignment()?);
        if !wants_feedback && reader.assigned(&spec.name, seq, 1)?.is_empty() {
            return Ok(false);
        }
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&wrap)?;
        // Another process may have collected since.
        let (found, feedback_ms) = place(&transaction).map_err(&wrap)?;
        let seq = if found < seq { seq } else { found.min(reader.last_assignment()?) };
        let sql = "SELECT tally FROM evidence WHERE experiment = ?1";
        let tally: Tally =
            transaction.query_row(sql, [&spec.name], |row| json_at(row, 0)).map_err(&wrap)?;
        let mut scan =
            Scan { connection: &transaction, spec, stage: experiment.stage, measure, tally };
        let page = reader.assigned(&spec.name, seq, PAGE)?;
        for row in &page {
            scan.see(reader, row)?.map_err(&wrap)?;
        }
        let mut heard_ms = feedback_ms;
        if wants_feedback {
            scan.hear(reader, feedback_ms.min(now_ms) - LATE_MS, now_ms)?.map_err(&wrap)?;
            heard_ms = now_ms;
        }
        let seq = page.last().map_or(seq, |row| row.seq);
        let tally = scan.tally;
        transaction
            .execute(
                "UPDATE evidence SET seq = ?2, feedback_ms = ?3, tally = ?4 WHERE experiment = ?1",
                params![spec.name, seq, heard_ms, json_of(&tally)],
            )
            .map_err(&wrap)?;
        note_point(&transaction, experiment, &tally, now_ms).map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
        Ok(page.len() == PAGE as usize)
    }
}

/// One page of one experiment.
struct Scan<'a> {
    connection: &'a Connection,
    spec: &'a Spec,
    stage: Stage,
    measure: Measure<'a>,
    tally: Tally,
}

/// The store's error, or else the file's.
type Both<T> = Result<rusqlite::Result<T>, ExperimentError>;

impl Scan<'_> {
    fn see(&mut self, reader: &Reader, row: &Assigned) -> Both<()> {
        let Assigned { tag, answered, .. } = row;
        if tag.arm == Arm::Shadow {
            self.pair(reader, row)?;
            return Ok(Ok(()));
        }
        Ok(self.see_drawn(tag, answered))
    }

    fn see_drawn(&mut self, tag: &ArmTag, answered: &Answered) -> rusqlite::Result<()> {
        let attempt = &answered.attempt;
        // Where everybody gets the same, nobody is drawn.
        if is_drawn(tag.percent) {
            let sql = "INSERT OR IGNORE INTO unit VALUES (?1, ?2)";
            let unit = params![tag.experiment, tag.unit];
            if self.connection.prepare_cached(sql)?.execute(unit)? == 1 {
                self.tally.see_unit(tag.arm, tag.percent);
            }
        }
        let was_left = attempt.finish_reason.as_deref() == Some("abort");
        let is_now = tag.percent == self.spec.percent_at(self.stage);
        if is_now {
            // Who left waited at least so long, and says nothing of the rest: an answer that ended counts beside it.
            let of = if was_left { waited } else { values };
            let which = if was_left { " left" } else { "" };
            let (connection, spec) = (self.connection, self.spec);
            self.tally.see_sizes(
                spec,
                tag,
                |metric| of(metric, attempt),
                |words| is_first(connection, &spec.name, &format!("{words}{which}"), &tag.unit),
            )?;
        }
        if !was_left {
            self.tally.see(tag, is_now);
        }
        // That somebody left is a sign of failure; what they left is no JSON yet, whatever it was to be.
        let judged: &[Metric] = match was_left {
            true => &[Metric::NotFailure],
            false => &[Metric::NotFailure, Metric::ValidJson],
        };
        for &metric in judged {
            if metrics(self.spec).any(|wanted| wanted == metric)
                && let Some(value) = (self.measure)(metric, answered)
            {
                self.see_rate(tag, metric, value)?;
            }
        }
        Ok(())
    }

    /// Weighs a unit's first value of a metric: units are drawn, so that further ones of the same say nothing new.
    fn see_rate(&mut self, tag: &ArmTag, metric: Metric, value: f64) -> rusqlite::Result<()> {
        if !is_drawn(tag.percent)
            || !is_first(self.connection, &self.spec.name, metric.as_str(), &tag.unit)?
        {
            return Ok(());
        }
        self.tally.see_value(self.spec, tag, metric, value);
        Ok(())
    }

    /// A copy that the candidate answered, beside what the primary said.
    fn pair(&mut self, reader: &Reader, copy: &Assigned) -> Result<(), ExperimentError> {
        let (answered, attempt) = (&copy.answered, &copy.answered.attempt);
        // One that made room is no answer.
        if attempt.finish_reason.as_deref() == Some("abort") {
            return Ok(());
        }
        let Some(original) = copy.tag.shadow_of else { return Ok(()) };
        let Some(Assigned { answered: original, .. }) = reader.arm_of(original)? else {
            return Ok(());
        };
        let goal = self.spec.goal.metric;
        let both = [&original, answered].map(|one| (self.measure)(goal, one));
        // Copies still come when the first stage is over.
        self.tally.n_stage += u64::from(self.stage == Stage::Shadow);
        let shadow = &mut self.tally.shadow;
        shadow.n += 1;
        let text = &attempt.output_text;
        shadow.same += u64::from(text.is_some() && *text == original.attempt.output_text);
        if let [Some(primary), Some(candidate)] = both {
            shadow.judged += 1;
            shadow.good[0] += primary;
            shadow.good[1] += candidate;
        }
        for (side, one) in [&original.attempt, attempt].into_iter().enumerate() {
            shadow.tokens[side] += u64::from(one.completion_tokens);
            shadow.e2e_ms[side].add(one.e2e_ms);
        }
        Ok(())
    }

    /// Weighs what people said.
    fn hear(&mut self, reader: &Reader, from_ms: i64, now_ms: i64) -> Both<()> {
        let mut place = Place::before(from_ms);
        loop {
            let page = reader.feedback(&place, now_ms + LATE_MS, PAGE)?;
            let Some(last) = page.last() else { return Ok(Ok(())) };
            place = Place::of_feedback(last);
            for said in &page {
                let (metric, value) = match said.rating {
                    Some(Rating::Boolean(good)) => (Metric::Feedback, f64::from(u8::from(good))),
                    Some(Rating::Score(score)) => (Metric::Score, score),
                    None => continue,
                };
                let Some(answer) = reader.arm_of(said.request_id)? else { continue };
                let tag = &answer.tag;
                let is_wanted = metrics(self.spec).any(|wanted| wanted == metric)
                    && tag.experiment == self.spec.name
                    && tag.arm != Arm::Shadow;
                if is_wanted && let Err(error) = self.see_rate(tag, metric, value) {
                    return Ok(Err(error));
                }
            }
        }
    }
}

/// Whether a unit was not counted yet for what `words` name; from now on it is.
fn is_first(
    connection: &Connection,
    experiment: &str,
    words: &str,
    unit: &str,
) -> rusqlite::Result<bool> {
    let sql = "INSERT OR IGNORE INTO counted VALUES (?1, ?2, ?3)";
    Ok(connection.prepare_cached(sql)?.execute(params![experiment, words, unit])? == 1)
}

fn metrics(spec: &Spec) -> impl Iterator<Item = Metric> {
    let guardrails = spec.guardrails.iter().map(|guardrail| guardrail.metric);
    std::iter::once(spec.goal.metric).chain(guardrails)
}

fn note_point(
    connection: &Connection,
    experiment: &Experiment,
    tally: &Tally,
    now_ms: i64,
) -> rusqlite::Result<()> {
    let name = &experiment.spec.name;
    let (primary, candidate) = tally.goal.n();
    let n = primary + candidate;
    let sql = "SELECT coalesce(max(n), 0) FROM point WHERE experiment = ?1";
    let last: i64 = connection.query_row(sql, [name], |row| row.get(0))?;
    // Steps grow with the number, so that a chart has some hundreds of points at most.
    let last = last.cast_unsigned();
    if n < last + MIN_STEP.max(last / 50) {
        return Ok(());
    }
    let interval = tally.goal.interval(experiment.spec.alphas().0);
    let row = params![
        name,
        n.cast_signed(),
        now_ms,
        word(&experiment.stage),
        interval.low,
        interval.high
    ];
    connection.execute("INSERT OR IGNORE INTO point VALUES (?1, ?2, ?3, ?4, ?5, ?6)", row).map(drop)
}

#[cfg(test)]
mod tests;
