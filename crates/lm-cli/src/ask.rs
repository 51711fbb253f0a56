//! Asks a server the cases of a dataset, and has the answers judged.
//!
//! It must never pass a case that was not answered.

use std::cell::OnceCell;
use std::time::Duration;

use lastmile::{EncodeRequest, EncoderText, RequestId, Runtime, Task, normalize};
use lm_feedback::{Case, Outcome as Said, Score, Scorer, Summary, judge_prompt, judge_says};
use serde_json::{Value, json};
use ureq::Agent;

use crate::failures::{failed_line, wrong_use};
use crate::loop_args::AskArgs;
use crate::model::{runtime_config, start};

/// The longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(300);
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// One server, asked one case after the other, each the same way every time.
pub(crate) struct Asker<'a> {
    agent: Agent,
    pub(crate) args: &'a AskArgs,
    pub(crate) model: String,
    /// The experiment and arm that answers, where it is not drawn.
    pub(crate) arm: Option<String>,
    /// The digest of the release that is to answer for the model, where one was named.
    pub(crate) release: Option<String>,
    /// Tells the server of each answer whether it passed.
    rates: bool,
    /// Loaded when the first answer is to be compared.
    encoder: OnceCell<Runtime>,
}

/// What became of the cases.
pub(crate) struct Asked {
    pub(crate) summary: Summary,
    /// Of each answer that did not pass: the question and why.
    pub(crate) failed: Vec<Value>,
    /// Answers of which the server was told.
    pub(crate) n_rated: u64,
    /// The mean over the cases that were scored by log-probability.
    pub(crate) mean_logprob: Option<f64>,
}

/// An answer, and the id by which the server knows it, when there is one.
struct Reply {
    said: Said,
    id: Option<String>,
}

impl<'a> Asker<'a> {
    /// Finds out what the server serves, when no model is named.
    pub(crate) fn new(args: &'a AskArgs) -> anyhow::Result<Asker<'a>> {
        let mut asker = Asker::of(args);
        asker.model = match &args.model {
            Some(model) => model.clone(),
            None => {
                let served = asker.served()?;
                let id = served.first().and_then(|one| one["id"].as_str());
                let nothing = || anyhow::anyhow!("{} names no model: say --model", args.base_url);
                id.ok_or_else(nothing)?.to_owned()
            }
        };
        Ok(asker)
    }

    /// The models and adapters that the server lists.
    pub(crate) fn served(&self) -> anyhow::Result<Vec<Value>> {
        let url = format!("{}/v1/models", self.args.base_url.trim_end_matches('/'));
        let mut request = self.agent.get(&url);
        if let Some(key) = &self.args.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut answer =
            request.call().map_err(|error| anyhow::anyhow!("cannot ask {url}: {error}"))?;
        let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string()?;
        let mut body: Value = serde_json::from_str(&body).unwrap_or_default();
        let data = body.get_mut("data").and_then(Value::as_array_mut);
        Ok(data.map(std::mem::take).unwrap_or_default())
    }

    /// Has an arm of an experiment answer for `model`, which is an operator's to say.
    pub(crate) fn of_arm(args: &'a AskArgs, model: &str, arm: &str) -> Asker<'a> {
        Asker { model: model.to_owned(), arm: Some(arm.to_owned()), ..Asker::of(args) }
    }

    pub(crate) fn of(args: &'a AskArgs) -> Asker<'a> {
        let agent = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        Asker {
            agent,
            args,
            model: String::new(),
            arm: None,
            release: None,
            rates: false,
            encoder: OnceCell::new(),
        }
    }

    /// Whether the server is told which answers passed, where that is a matter of fact. Their log-probabilities are
    /// asked for, so that there is something to learn from.
    pub(crate) fn that_rates(self, rates: bool) -> Asker<'a> {
        Asker { rates, ..self }
    }

    /// Asks all of them.
    pub(crate) fn ask_all(&self, cases: &[Case]) -> anyhow::Result<Asked> {
        let mut scores: Vec<Score> = Vec::with_capacity(cases.len());
        let (mut failed, mut n_rated, mut logprobs) = (Vec::new(), 0, Vec::new());
        for case in cases {
            let Reply { mut said, id } = match case.scorer {
                Scorer::Logprob(_) => Reply { said: self.likelihood(case), id: None },
                _ => self.say(&self.model, self.arm.as_deref(), &case.messages),
            };
            logprobs.extend(said.mean_logprob);
            if matches!(case.scorer, Scorer::Judge) && said.error.is_none() {
                let judge = self.args.judge.as_deref().unwrap_or(&self.model);
                let asked = json!({ "role": "user", "content": judge_prompt(case, &said.text) });
                let reply = self.say(judge, None, &[asked]).said;
                if let Some(error) = reply.error {
                    anyhow::bail!("the judge {judge} does not answer: {error}");
                }
                said.judged = judge_says(&reply.text);
            }
            if matches!(case.scorer, Scorer::Similarity(_)) && said.error.is_none() {
                let expected = case.expected.as_deref().unwrap_or_default();
                said.similarity = Some(self.similarity(&said.text, expected)?);
            }
            let score = case.score(&said);
            let is_fact = matches!(case.scorer, Scorer::Exact | Scorer::Contains | Scorer::Regex);
            if let Some(id) = id.filter(|_| self.rates && is_fact) {
                self.rate(&id, score.pass)?;
                n_rated += 1;
            }
            if !score.pass {
                let question = case.messages.last().and_then(|last| last["content"].as_str());
                failed.push(failed_line(question.unwrap_or_default(), &score.why));
            }
            scores.push(score);
        }
        let mean = logprobs.iter().sum::<f64>() / logprobs.len() as f64;
        let mean_logprob = (!logprobs.is_empty()).then_some(mean);
        Ok(Asked { summary: Summary::of(scores.iter()), failed, n_rated, mean_logprob })
    }

    /// The cosine between two texts' vectors, by an encoder of this machine. Long texts are compared by their
    /// beginnings.
    fn similarity(&self, answer: &str, expected: &str) -> anyhow::Result<f64> {
        let encoder = match self.encoder.get() {
            Some(encoder) => encoder,
            None => {
                let options = crate::args::RunOptions::of_defaults()?;
                let started = start(runtime_config(&self.args.encoder, &options)?)?;
                self.encoder.get_or_init(|| started)
            }
        };
        let texts = [answer, expected].map(|text| EncoderText::Text(text.to_owned())).to_vec();
        let request = EncodeRequest {
            truncate: true,
            ..EncodeRequest::new(RequestId(0), Task::Embed, texts)
        };
        let mut rows = encoder.encode(&request)?.wait()?.rows;
        rows.iter_mut().for_each(|row| normalize(row));
        Ok(rows[0].iter().zip(&rows[1]).map(|(a, b)| f64::from(a * b)).sum())
    }

    /// Greedy, so that the same release says the same every time.
    fn say(&self, model: &str, arm: Option<&str>, messages: &[Value]) -> Reply {
        let mut body = json!({
            "model": model,
            "messages": messages,
            "temperature": 0,
            "seed": 0,
            "max_tokens": self.args.max_tokens,
        });
        if self.rates {
            body["confidence"] = true.into();
        }
        let body = match self.post("/v1/chat/completions", arm, &body) {
            Ok(body) => body,
            Err(error) => {
                return Reply { said: Said { error: Some(error), ..Said::default() }, id: None };
            }
        };
        let choice = &body["choices"][0];
        let said = Said {
            text: choice["message"]["content"].as_str().unwrap_or_default().to_owned(),
            finish_reason: choice["finish_reason"].as_str().map(str::to_owned),
            ..Said::default()
        };
        Reply { said, id: body["id"].as_str().map(str::to_owned) }
    }

    /// Tells the server whether an answer passed.
    fn rate(&self, id: &str, is_good: bool) -> anyhow::Result<()> {
        let body = json!({ "request_id": id, "rating": is_good, "comment": "eval" });
        let told = self.post("/v1/feedback", None, &body);
        told.map(drop).map_err(|error| anyhow::anyhow!("{id} cannot be rated: {error}"))
    }

    /// What the server answers, or what went wrong: also that another arm or release answered than the one that was named.
    pub(crate) fn post(
        &self,
        path: &str,
        arm: Option<&str>,
        asked: &Value,
    ) -> Result<Value, String> {
        let url = format!("{}{path}", self.args.base_url.trim_end_matches('/'));
        let mut request = self.agent.post(&url).header("content-type", "application/json");
        if let Some(key) = &self.args.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if let Some(arm) = arm {
            request = request.header("x-lastmile-arm", arm);
        }
        let mut answer = request.send(asked.to_string()).map_err(|error| error.to_string())?;
        let by = answer.headers().get("x-lastmile-arm").and_then(|by| by.to_str().ok());
        let is_other_arm = arm.is_some() && by != arm;
        let text = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string();
        let text = text.map_err(|error| error.to_string())?;
        let answered: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            let message = answered["error"]["message"].as_str().unwrap_or("no message");
            return Err(format!("status {}: {message}", answer.status()));
        }
        if let Some(arm) = arm.filter(|_| is_other_arm) {
            return Err(format!("{arm} did not answer, but another one in its place"));
        }
        let release = self.release.as_deref().filter(|_| asked["model"] == self.model.as_str());
        let by = answered["system_fingerprint"].as_str().unwrap_or_default();
        if let Some(release) = release.filter(|release| !by.is_empty() && *release != by) {
            return Err(format!("release {by} answered, and not {release}"));
        }
        Ok(answered)
    }
}

/// Rows as cases; a row that cannot be asked is the caller's error and names its number.
pub(crate) fn cases(rows: &[Value], scorer: Option<&str>) -> anyhow::Result<Vec<Case>> {
    let case = |(i, row)| {
        Case::of(row, scorer).map_err(|error| wrong_use(error).context(format!("row {}", i + 1)))
    };
    rows.iter().enumerate().map(case).collect()
}
