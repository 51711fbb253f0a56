//! One reading of the store on its way into the book, page by page.
//!
//! It must never keep others waiting for a page in which nothing is new, nor while it reads the store, unless they write faster
//! than a page is read.
//!
//! Start reading at [`Scan::page`].

use std::collections::HashMap;

use lm_store::sql::{self, Connection, ToValue, Value, params};
use lm_store::{Answered, StoredFeedback};

use crate::book::{add_sample, clusters, version};
use crate::{
    Answer, Book, Clusters, Collected, FeedbackError, Kind, Regenerations, Shape, Signal, batch,
    signals,
};

/// An answer, and what is wrong with it: all that needs time, before anybody has to wait.
pub(crate) struct Looked {
    answer: Answer,
    found: Vec<Signal>,
    /// Of its first sign of failure.
    shape: Option<Shape>,
}

/// One reading of the store. An error ends it: the clusters may then be ahead of the book.
pub(crate) struct Scan<'a> {
    book: &'a mut Book,
    clusters: Clusters,
    /// The [`version`] of the book that they are of.
    clusters_of: Option<i64>,
    now_ms: i64,
    pub(crate) collected: Collected,
}

/// A failure as the book has it.
struct Known {
    cluster: String,
    kind: String,
    kinds: String,
    severity: f64,
    noticed_at_ms: i64,
    clustered_at_ms: i64,
    is_reviewed: bool,
}

/// Failures by their request and choice.
type KnownAnswers = HashMap<(String, u32), Known>;

/// What is to be written of an answer.
enum Change<'p> {
    /// Praise came since.
    Gone(&'p Answer),
    /// A new failure, or one under a new kind.
    New(&'p Answer, &'p Shape, Failure),
    /// One of the same kind, with other facts.
    Again(&'p Answer, &'p Known, Failure),
}

/// What an answer's signs say together.
struct Failure {
    kind: Kind,
    kinds: String,
    severity: f64,
    /// Of any kind.
    noticed_at_ms: i64,
    /// Of the kind that names the problem.
    kind_noticed_at_ms: i64,
}

/// Answers that are looked up at once.
const KNOWN_PAGE: usize = 100;
/// So often a page is read anew because others wrote meanwhile; then they wait for it.
const MAX_TRIES: usize = 4;
pub(crate) const INTO: &str = "failure(request_id, choice, cluster_id, kind, kinds, severity, release_hash, \
    model, occurred_at_ms, noticed_at_ms, clustered_at_ms, kind_noticed_at_ms)";
const IF_KNOWN: &str = "(request_id, choice) DO UPDATE SET cluster_id = excluded.cluster_id, \
    kind = excluded.kind, kinds = excluded.kinds, severity = excluded.severity, \
    noticed_at_ms = CASE WHEN failure.noticed_at_ms < excluded.noticed_at_ms \
    THEN failure.noticed_at_ms ELSE excluded.noticed_at_ms END, \
    clustered_at_ms = excluded.clustered_at_ms, \
    kind_noticed_at_ms = CASE WHEN failure.kind = excluded.kind \
    AND failure.kind_noticed_at_ms < excluded.kind_noticed_at_ms \
    THEN failure.kind_noticed_at_ms ELSE excluded.kind_noticed_at_ms END";

impl Looked {
    pub(crate) fn at(row: &Answered, said: &[StoredFeedback], again: &Regenerations) -> Looked {
        let answer = Answer::new(row, said);
        let found = signals(&answer, again.again_ms(&answer.request_id));
        let shape = found.first().map(|first| Shape::of(&answer, first));
        Looked { answer, found, shape }
    }

    /// `None` where the book has it so already.
    fn change<'p>(&'p self, known: Option<&'p Known>, now_ms: i64) -> Option<Change<'p>> {
        let Looked { answer, found, shape } = self;
        let Some((first, shape)) = found.first().zip(shape.as_ref()) else {
            // What a reviewer said stays.
            return known.filter(|known| !known.is_reviewed).map(|_| Change::Gone(answer));
        };
        let kinds: Vec<&str> = found.iter().map(|signal| signal.kind.as_str()).collect();
        let failure = Failure {
            kind: first.kind,
            kinds: kinds.join(","),
            severity: found.iter().map(|signal| signal.kind.severity()).fold(0.0, f64::max),
            noticed_at_ms: found.iter().map(|one| one.noticed_at_ms).min().unwrap_or(now_ms),
            kind_noticed_at_ms: first.noticed_at_ms,
        };
        match known.filter(|known| known.kind == first.kind.as_str()) {
            Some(known) if failure.is_as(known) => None,
            Some(known) => Some(Change::Again(answer, known, failure)),
            None => Some(Change::New(answer, shape, failure)),
        }
    }
}

impl Failure {
    fn is_as(&self, known: &Known) -> bool {
        self.kinds == known.kinds
            && self.severity.total_cmp(&known.severity).is_eq()
            && self.noticed_at_ms >= known.noticed_at_ms
    }

    fn row(&self, answer: &Answer, cluster: &str, clustered_at_ms: i64) -> Vec<Value> {
        params![
            answer.request_id,
            answer.choice,
            cluster,
            self.kind.as_str(),
            self.kinds,
            self.severity,
            answer.release_hash,
            answer.model,
            answer.arrived_at_ms,
            self.noticed_at_ms,
            clustered_at_ms,
            self.kind_noticed_at_ms,
        ]
    }
}

impl Scan<'_> {
    pub(crate) fn of(book: &mut Book, now_ms: i64) -> Scan<'_> {
        let (clusters, collected) = (Clusters::default(), Collected::default());
        Scan { book, clusters, clusters_of: None, now_ms, collected }
    }

    /// Writes what `read` finds; reads it anew when others wrote meanwhile, for they may have erased some of it. At the last
    /// of few tries they wait while it reads.
    pub(crate) fn page<T>(
        &mut self,
        read: impl Fn() -> Result<(Vec<Looked>, T), FeedbackError>,
    ) -> Result<T, FeedbackError> {
        for _ in 0..MAX_TRIES {
            let wrap = self.book.wrap("read");
            let seen = version(&self.book.connection).map_err(&wrap)?;
            let (page, rest) = read()?;
            let known = known(&self.book.connection, &page).map_err(&wrap)?;
            let changes = changes(&page, &known, self.now_ms);
            if changes.is_empty() || self.write(&changes, seen)? {
                self.count(&page);
                return Ok(rest);
            }
        }
        self.page_alone(read)
    }

    /// All of a page or nothing; `false` when somebody wrote since the version that was seen.
    fn write(&mut self, changes: &[Change<'_>], seen: i64) -> Result<bool, FeedbackError> {
        let wrap = self.book.wrap("write");
        let transaction = self.book.begin()?;
        // To write is a version of its own.
        let own = version(&transaction).map_err(&wrap)?;
        if own != seen + 1 {
            return Ok(false);
        }
        let writing = Writing {
            connection: &transaction,
            clusters: &mut self.clusters,
            clusters_of: &mut self.clusters_of,
            now_ms: self.now_ms,
            collected: &mut self.collected,
        };
        writing.write(changes, own).map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
        Ok(true)
    }

    /// The same for a page that is read while nobody else can write.
    fn page_alone<T>(
        &mut self,
        read: impl Fn() -> Result<(Vec<Looked>, T), FeedbackError>,
    ) -> Result<T, FeedbackError> {
        let wrap = self.book.wrap("write");
        let transaction = self.book.begin()?;
        let own = version(&transaction).map_err(&wrap)?;
        let (page, rest) = read()?;
        let known = known(&transaction, &page).map_err(&wrap)?;
        let writing = Writing {
            connection: &transaction,
            clusters: &mut self.clusters,
            clusters_of: &mut self.clusters_of,
            now_ms: self.now_ms,
            collected: &mut self.collected,
        };
        writing.write(&changes(&page, &known, self.now_ms), own).map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
        self.count(&page);
        Ok(rest)
    }

    fn count(&mut self, page: &[Looked]) {
        self.collected.n_answers += page.len() as u64;
        self.collected.n_failures += page.iter().filter(|one| one.shape.is_some()).count() as u64;
    }
}

/// A page on its way into the book.
struct Writing<'a> {
    connection: &'a Connection,
    clusters: &'a mut Clusters,
    clusters_of: &'a mut Option<i64>,
    now_ms: i64,
    collected: &'a mut Collected,
}

impl Writing<'_> {
    /// `own` is the version of the book that this transaction makes.
    fn write(mut self, changes: &[Change<'_>], own: i64) -> sql::Result<()> {
        if *self.clusters_of != Some(own - 1) {
            *self.clusters = clusters(self.connection)?;
        }
        *self.clusters_of = Some(own);
        let mut rows = Vec::new();
        for change in changes {
            match change {
                Change::Gone(answer) => {
                    let sql = "DELETE FROM failure WHERE request_id = ?1 AND choice = ?2 \
                               AND reviewed_at_ms IS NULL";
                    let key = params![answer.request_id, answer.choice];
                    self.connection.prepare_cached(sql)?.execute(key)?;
                }
                Change::Again(answer, known, failure) => {
                    rows.push(failure.row(answer, &known.cluster, known.clustered_at_ms));
                }
                Change::New(answer, shape, failure) => {
                    let cluster = self.cluster(answer, shape)?;
                    rows.push(failure.row(answer, &cluster, self.now_ms));
                }
            }
        }
        batch::insert(self.connection, INTO, IF_KNOWN, rows).map(drop)
    }

    /// The cluster of a failure, which is there afterwards.
    fn cluster(&mut self, answer: &Answer, shape: &Shape) -> sql::Result<String> {
        let (id, is_sample) = self.clusters.assign(shape, &answer.name());
        if is_sample {
            let sql = "SELECT 1 FROM cluster WHERE id = ?1";
            let is_known = self.connection.prepare_cached(sql)?.exists([&id])?;
            self.collected.n_new_clusters += u64::from(!is_known);
            add_sample(self.connection, &id, shape, answer.arrived_at_ms)?;
        }
        Ok(id)
    }
}

fn changes<'p>(page: &'p [Looked], known: &'p KnownAnswers, now_ms: i64) -> Vec<Change<'p>> {
    let change = |looked: &'p Looked| {
        let key = (looked.answer.request_id.clone(), looked.answer.choice);
        looked.change(known.get(&key), now_ms)
    };
    page.iter().filter_map(change).collect()
}

/// What the book has of the answers of a page; many at once, for a server may be far away.
fn known(connection: &Connection, page: &[Looked]) -> sql::Result<KnownAnswers> {
    let marks: Vec<String> = (1..=KNOWN_PAGE).map(|i| format!("?{i}")).collect();
    let marks = marks.join(", ");
    let sql = format!(
        "SELECT request_id, choice, cluster_id, kind, kinds, severity, noticed_at_ms, \
         clustered_at_ms, reviewed_at_ms FROM failure WHERE request_id IN ({marks})"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut known = HashMap::new();
    for some in page.chunks(KNOWN_PAGE) {
        let ids = some.iter().map(|looked| looked.answer.request_id.to_value());
        let mut ids: Vec<Value> = ids.collect();
        // It is one statement, however many are asked for.
        ids.resize(KNOWN_PAGE, Value::Null);
        let rows = statement.query_map(ids, |row| {
            let one = Known {
                cluster: row.get(2)?,
                kind: row.get(3)?,
                kinds: row.get(4)?,
                severity: row.get(5)?,
                noticed_at_ms: row.get(6)?,
                clustered_at_ms: row.get(7)?,
                is_reviewed: row.get::<_, Option<i64>>(8)?.is_some(),
            };
            Ok(((row.get(0)?, row.get(1)?), one))
        })?;
        for row in rows {
            let (key, one) = row?;
            known.insert(key, one);
        }
    }
    Ok(known)
}
