//! From traffic to failures: reads what is new in the store, again and again, each answer with the same outcome.
//!
//! It must never hold more than a page of answers, nor keep who writes to the book waiting while it reads the store.
//!
//! Start reading at [`Book::collect`].

use std::collections::{BTreeMap, HashMap};

use lm_store::sql::{self, Connection, ToValue, Value, params};
use lm_store::{Answered, Place, Reader, StoredFeedback, StoredRequest};
use lm_types::RequestId;
use serde::Serialize;

use crate::book::{add_sample, clusters, version};
use crate::{Answer, Book, Clusters, FeedbackError, Kind, Shape, Signal, signals};

/// What one reading found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Answers that were looked at; those of the last hour come again.
    pub n_answers: u64,
    /// Of them those that failed.
    pub n_failures: u64,
    /// Problems that were not known before.
    pub n_new_clusters: u64,
}

/// Who asked the same again soon after an answer ended.
#[derive(Debug, Default)]
pub struct Regenerations {
    /// Who asked what: the request, and when its last answer ended.
    asked: HashMap<[u8; 32], (String, i64)>,
    /// Requests, and when they were asked again, in Unix milliseconds.
    again: HashMap<String, i64>,
}

/// An answer is stored when it ends, under the time of its arrival: one that took longer than this is not found.
const LONGEST_ANSWER_MS: i64 = 60 * 60 * 1000;
/// Asked again later than this is another conversation.
const SOON_MS: i64 = 10 * 60 * 1000;
const PAGE: u32 = 1000;
/// Requests with late feedback that are read at once.
const LATE_PAGE: usize = 100;
/// Answers that are looked up at once.
const KNOWN_PAGE: usize = 100;
/// Most questions that are remembered at once; with more, those that ended longest ago are forgotten.
const MAX_ASKED: usize = 100_000;

impl Regenerations {
    /// The next answer in the order of arrival.
    pub fn see(&mut self, answer: &Answer) {
        if answer.messages.is_empty() {
            return;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(answer.tenant.as_deref().unwrap_or_default().as_bytes());
        for message in &answer.messages {
            hasher.update(&[0]);
            hasher.update(message.to_string().as_bytes());
        }
        let key = *hasher.finalize().as_bytes();
        let now_ms = answer.arrived_at_ms;
        match self.asked.get_mut(&key) {
            // Another answer of the same request.
            Some((request, ended_ms)) if *request == answer.request_id => {
                *ended_ms = answer.ended_at_ms.max(*ended_ms);
            }
            other => {
                if let Some((request, ended_ms)) = other
                    // Who asks before the answer is there has not seen it.
                    && (*ended_ms..=*ended_ms + SOON_MS).contains(&now_ms)
                {
                    self.again.entry(request.clone()).or_insert(now_ms);
                }
                self.asked.insert(key, (answer.request_id.clone(), answer.ended_at_ms));
            }
        }
        if self.asked.len() > MAX_ASKED {
            self.asked.retain(|_, (_, ended_ms)| *ended_ms + SOON_MS >= now_ms);
            if self.asked.len() > MAX_ASKED {
                self.asked.clear();
            }
        }
    }

    /// When a request was asked again, in Unix milliseconds.
    #[must_use]
    pub fn again_ms(&self, request_id: &str) -> Option<i64> {
        self.again.get(request_id).copied()
    }
}

impl Book {
    /// Reads what came into the store since the last time, finds failures, and gives each its cluster. Any number of
    /// times: an answer counts once. Others may write between two pages; what is interrupted is read again.
    ///
    /// # Errors
    /// [`FeedbackError::Store`], [`FeedbackError::Database`].
    pub fn collect(&mut self, reader: &Reader, now_ms: i64) -> Result<Collected, FeedbackError> {
        let from_ms = self.state("collected_ms")?.unwrap_or(0).saturating_sub(LONGEST_ANSWER_MS);
        let opinions = opinions(reader, from_ms, now_ms)?;
        let again = regenerations(reader, from_ms, now_ms)?;
        let look = |row: &Answered, said: &[StoredFeedback]| Looked::at(row, said, &again);
        let mut scan = Scan {
            book: self,
            clusters: Clusters::default(),
            clusters_of: None,
            now_ms,
            collected: Collected::default(),
        };
        let mut place = Some(Place::before(from_ms));
        while let Some(from) = place {
            place = scan.page(|| {
                let page = reader.answers(&from, now_ms, PAGE)?;
                let looked = page.iter().map(|row| {
                    let said = opinions.get(&row.request_id);
                    look(row, said.map_or(&[][..], Vec::as_slice))
                });
                Ok((looked.collect(), page.last().map(Answered::place)))
            })?;
        }
        // Feedback may come long after its request.
        let opinions: Vec<_> = opinions.iter().collect();
        for some in opinions.chunks(LATE_PAGE) {
            scan.page(|| {
                let mut looked = Vec::new();
                for (id, said) in some {
                    let Some(request) = reader.request(**id)? else { continue };
                    if request.arrived_at_ms < from_ms {
                        let said = reader.feedback_for(**id).unwrap_or_else(|_| said.to_vec());
                        looked.extend(answers_of(request).iter().map(|row| look(row, &said)));
                    }
                }
                Ok((looked, ()))
            })?;
        }
        let collected = scan.collected;
        // Last: what is not written by now is read again.
        let sql = "INSERT INTO state(name, value) VALUES ('collected_ms', ?1) \
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        self.write(sql, [now_ms])?;
        Ok(collected)
    }
}

/// An answer, and what is wrong with it: all that needs time, before anybody has to wait.
struct Looked {
    answer: Answer,
    found: Vec<Signal>,
    /// Of its first sign of failure.
    shape: Option<Shape>,
}

impl Looked {
    fn at(row: &Answered, said: &[StoredFeedback], again: &Regenerations) -> Looked {
        let answer = Answer::new(row, said);
        let found = signals(&answer, again.again_ms(&answer.request_id));
        let shape = found.first().map(|first| Shape::of(&answer, first));
        Looked { answer, found, shape }
    }
}

/// One reading of the store. An error ends it: the clusters may then be ahead of the book.
struct Scan<'a> {
    book: &'a mut Book,
    clusters: Clusters,
    /// The [`version`] of the book that they are of.
    clusters_of: Option<i64>,
    now_ms: i64,
    collected: Collected,
}

impl Scan<'_> {
    /// Writes what `read` finds; reads it anew when others wrote meanwhile, for they may have erased some of it.
    fn page<T>(
        &mut self,
        read: impl Fn() -> Result<(Vec<Looked>, T), FeedbackError>,
    ) -> Result<T, FeedbackError> {
        loop {
            let seen = version(&self.book.connection).map_err(self.book.wrap("read"))?;
            let (page, rest) = read()?;
            if page.is_empty() || self.write(&page, seen)? {
                return Ok(rest);
            }
        }
    }

    /// All of a page or nothing; `false` when somebody wrote since the version that was seen.
    fn write(&mut self, page: &[Looked], seen: i64) -> Result<bool, FeedbackError> {
        let wrap = self.book.wrap("write");
        let transaction = self.book.begin()?;
        // To write is a version of its own.
        let own = version(&transaction).map_err(&wrap)?;
        if own != seen + 1 {
            return Ok(false);
        }
        if self.clusters_of != Some(seen) {
            self.clusters = clusters(&transaction).map_err(&wrap)?;
        }
        self.clusters_of = Some(own);
        let mut writing = Writing {
            known: known(&transaction, page).map_err(&wrap)?,
            connection: &transaction,
            clusters: &mut self.clusters,
            now_ms: self.now_ms,
            collected: &mut self.collected,
        };
        page.iter().try_for_each(|looked| writing.look_at(looked)).map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
        Ok(true)
    }
}

/// A page on its way into the book.
struct Writing<'a> {
    known: HashMap<(String, u32), String>,
    connection: &'a Connection,
    clusters: &'a mut Clusters,
    now_ms: i64,
    collected: &'a mut Collected,
}

impl Writing<'_> {
    fn look_at(&mut self, looked: &Looked) -> sql::Result<()> {
        let Looked { answer, found, shape } = looked;
        self.collected.n_answers += 1;
        let known = self.known.get(&(answer.request_id.clone(), answer.choice)).cloned();
        match (found.first().zip(shape.as_ref()), known) {
            (None, None) => Ok(()),
            // Praise came since; what a reviewer said stays.
            (None, Some(_)) => {
                let sql = "DELETE FROM failure WHERE request_id = ?1 AND choice = ?2 \
                           AND reviewed_at_ms IS NULL";
                let key = params![answer.request_id, answer.choice];
                self.connection.prepare_cached(sql)?.execute(key).map(|_| ())
            }
            (Some((first, _)), Some(kind)) if first.kind.as_str() == kind => {
                self.collected.n_failures += 1;
                self.write(answer, found, None)
            }
            (Some((_, shape)), _) => {
                self.collected.n_failures += 1;
                let (id, is_sample) = self.clusters.assign(shape, &answer.name());
                if is_sample {
                    let sql = "SELECT 1 FROM cluster WHERE id = ?1";
                    let is_known = self.connection.prepare_cached(sql)?.exists([&id])?;
                    self.collected.n_new_clusters += u64::from(!is_known);
                    add_sample(self.connection, &id, shape, answer.arrived_at_ms)?;
                }
                self.write(answer, found, Some(&id))
            }
        }
    }

    /// Writes a failure: with a cluster as a new one or under a new kind, else what may have changed.
    fn write(&self, answer: &Answer, found: &[Signal], cluster: Option<&str>) -> sql::Result<()> {
        let severity = found.iter().map(|signal| signal.kind.severity()).fold(0.0, f64::max);
        let noticed_ms =
            found.iter().map(|signal| signal.noticed_at_ms).min().unwrap_or(self.now_ms);
        let kinds: Vec<&str> = found.iter().map(|signal| signal.kind.as_str()).collect();
        let kinds = kinds.join(",");
        let Some(cluster) = cluster else {
            let sql = "UPDATE failure SET kinds = ?3, severity = ?4, \
                       noticed_at_ms = CASE WHEN noticed_at_ms < ?5 THEN noticed_at_ms ELSE ?5 END \
                       WHERE request_id = ?1 AND choice = ?2";
            let row = params![answer.request_id, answer.choice, kinds, severity, noticed_ms];
            return self.connection.prepare_cached(sql)?.execute(row).map(|_| ());
        };
        let sql = "INSERT INTO failure(request_id, choice, cluster_id, kind, kinds, severity, \
                   release_hash, model, occurred_at_ms, noticed_at_ms, clustered_at_ms) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
                   ON CONFLICT (request_id, choice) DO UPDATE SET \
                   cluster_id = excluded.cluster_id, kind = excluded.kind, \
                   kinds = excluded.kinds, severity = excluded.severity, noticed_at_ms = CASE \
                   WHEN failure.noticed_at_ms < excluded.noticed_at_ms \
                   THEN failure.noticed_at_ms ELSE excluded.noticed_at_ms END, \
                   clustered_at_ms = excluded.clustered_at_ms";
        let row = params![
            answer.request_id,
            answer.choice,
            cluster,
            found.first().map(|signal| signal.kind).unwrap_or(Kind::Disliked).as_str(),
            kinds,
            severity,
            answer.release_hash,
            answer.model,
            answer.arrived_at_ms,
            noticed_ms,
            self.now_ms,
        ];
        self.connection.prepare_cached(sql)?.execute(row).map(|_| ())
    }
}

/// The kinds under which answers of a page are known as failures; many at once, for a server may be far away and others
/// wait for the page.
fn known(connection: &Connection, page: &[Looked]) -> sql::Result<HashMap<(String, u32), String>> {
    let marks: Vec<String> = (1..=KNOWN_PAGE).map(|i| format!("?{i}")).collect();
    let marks = marks.join(", ");
    let sql = format!("SELECT request_id, choice, kind FROM failure WHERE request_id IN ({marks})");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut known = HashMap::new();
    for some in page.chunks(KNOWN_PAGE) {
        let ids = some.iter().map(|looked| looked.answer.request_id.to_value());
        let mut ids: Vec<Value> = ids.collect();
        // It is one statement, however many are asked for.
        ids.resize(KNOWN_PAGE, Value::Null);
        let rows = statement.query_map(ids, |row| {
            let key: (String, u32) = (row.get(0)?, row.get(1)?);
            Ok((key, row.get::<_, String>(2)?))
        })?;
        for row in rows {
            let (key, kind) = row?;
            known.insert(key, kind);
        }
    }
    Ok(known)
}

/// Feedback that came since, by request.
fn opinions(
    reader: &Reader,
    from_ms: i64,
    now_ms: i64,
) -> Result<BTreeMap<RequestId, Vec<StoredFeedback>>, FeedbackError> {
    let mut by_request: BTreeMap<RequestId, Vec<StoredFeedback>> = BTreeMap::new();
    let mut place = Place::before(from_ms);
    loop {
        let page = reader.feedback(&place, now_ms, PAGE)?;
        let Some(last) = page.last() else { return Ok(by_request) };
        place = Place::of_feedback(last);
        for said in page {
            by_request.entry(said.request_id).or_default().push(said);
        }
    }
}

fn regenerations(
    reader: &Reader,
    from_ms: i64,
    now_ms: i64,
) -> Result<Regenerations, FeedbackError> {
    let mut again = Regenerations::default();
    let mut place = Place::before(from_ms);
    loop {
        let page = reader.answers(&place, now_ms, PAGE)?;
        let Some(last) = page.last() else { return Ok(again) };
        place = last.place();
        page.iter().for_each(|row| again.see(&Answer::new(row, &[])));
    }
}

/// A request's answers, one by one.
pub(crate) fn answers_of(request: StoredRequest) -> Vec<Answered> {
    let StoredRequest {
        id,
        model,
        arrived_at_ms,
        prompt,
        params,
        tenant,
        attempts,
        n,
        priority,
        ..
    } = request;
    let with_attempt = |attempt| Answered {
        request_id: id,
        model: model.clone(),
        tenant: tenant.clone(),
        arrived_at_ms,
        prompt: prompt.clone(),
        params: params.clone(),
        n,
        priority: priority.clone(),
        attempt,
    };
    attempts.into_iter().map(with_attempt).collect()
}
