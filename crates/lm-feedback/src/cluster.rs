//! Which failures are one problem: the same kind, and prompts or answers that are nearly the same.
//!
//! It must never hold a text: sketches of it are enough.
//!
//! Start reading at [`Clusters::assign`].

use std::collections::BTreeMap;

use lm_data::{N_BINS, Sketch, similarity};

use crate::detect::Kind;
use crate::{Answer, Signal};

/// What failures are compared by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Kind and detail: failures of different ones are never one problem.
    pub fingerprint: String,
    /// The sketch of the last question; `None` when it is short or was not kept.
    pub question: Option<[u8; N_BINS]>,
    /// The sketch of the answer.
    pub answer: Option<[u8; N_BINS]>,
}

/// Failures that are one problem. Its id stays as it is, whatever joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `c` and 12 hexadecimal digits, of its first failure.
    pub id: String,
    /// What its failures have in common.
    pub fingerprint: String,
    /// Members that are not alike among each other, the first one first. At most [`MAX_SAMPLES`].
    pub samples: Vec<Shape>,
}

/// All clusters, by fingerprint.
#[derive(Clone, Debug, Default)]
pub struct Clusters {
    by_fingerprint: BTreeMap<String, Vec<Cluster>>,
}

/// Members that stand for a cluster.
const MAX_SAMPLES: usize = 8;
/// Clusters of one fingerprint; when there are as many, what is like none of them joins the first one.
const MAX_CLUSTERS: usize = 256;
/// Questions or answers with this share of pieces in common are one problem.
const NEAR: f64 = 0.3;
/// Members that are less alike than this to all samples become samples themselves.
const NEW_SAMPLE_BELOW: f64 = 0.6;

impl Shape {
    /// The shape of an answer's first sign of failure. The system's instructions are left out: a fix may change them,
    /// and what still fails is still the same problem.
    #[must_use]
    pub fn of(answer: &Answer, signal: &Signal) -> Shape {
        let sketch = |text: &str| Sketch::of([text].into_iter()).map(|sketch| sketch.signature);
        let colon = if signal.detail.is_empty() { "" } else { ":" };
        let fingerprint = format!("{}{colon}{}", signal.kind.as_str(), signal.detail);
        // Errors come from the machine, whatever was asked.
        if matches!(signal.kind, Kind::Error | Kind::Timeout) {
            return Shape { fingerprint, ..Shape::default() };
        }
        Shape {
            fingerprint,
            question: answer.question().and_then(sketch),
            answer: answer.output.as_deref().and_then(sketch),
        }
    }

    /// How alike two are, from 0 to 1: by what was asked or by what was answered.
    fn likeness(&self, other: &Shape) -> f64 {
        let of = |a: &Option<[u8; N_BINS]>, b: &Option<[u8; N_BINS]>| match (a, b) {
            (Some(a), Some(b)) => similarity(a, b),
            _ => 0.0,
        };
        if !self.has_text() && !other.has_text() {
            return 1.0;
        }
        of(&self.question, &other.question).max(of(&self.answer, &other.answer))
    }

    fn has_text(&self) -> bool {
        self.question.is_some() || self.answer.is_some()
    }
}

impl Clusters {
    /// Clusters that are known.
    pub fn add(&mut self, cluster: Cluster) {
        self.by_fingerprint.entry(cluster.fingerprint.clone()).or_default().push(cluster);
    }

    /// The cluster of a failure: the one that it is most like, or a new one. The second value says whether the shape
    /// is to be kept as one of the cluster's samples; a new cluster's first one is.
    pub fn assign(&mut self, shape: &Shape, answer_name: &str) -> (String, bool) {
        let clusters = self.by_fingerprint.entry(shape.fingerprint.clone()).or_default();
        let likeness = |cluster: &Cluster| {
            let each = cluster.samples.iter().map(|sample| sample.likeness(shape));
            each.fold(0.0, f64::max)
        };
        let best = clusters.iter().map(likeness).enumerate();
        // The first of equals, so that the order of arrival decides and nothing else.
        let best = best.fold(None, |best: Option<(usize, f64)>, (i, like)| match best {
            Some((_, most)) if most >= like => best,
            _ => Some((i, like)),
        });
        match best {
            Some((i, like)) if like >= NEAR || clusters.len() >= MAX_CLUSTERS => {
                let cluster = &mut clusters[if like >= NEAR { i } else { 0 }];
                let is_sample =
                    (NEAR..NEW_SAMPLE_BELOW).contains(&like) && cluster.samples.len() < MAX_SAMPLES;
                if is_sample {
                    cluster.samples.push(shape.clone());
                }
                (cluster.id.clone(), is_sample)
            }
            _ => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(shape.fingerprint.as_bytes());
                hasher.update(&[0]);
                hasher.update(answer_name.as_bytes());
                let id = format!("c{}", &hasher.finalize().to_hex()[..12]);
                clusters.push(Cluster {
                    id: id.clone(),
                    fingerprint: shape.fingerprint.clone(),
                    samples: vec![shape.clone()],
                });
                (id, true)
            }
        }
    }
}
