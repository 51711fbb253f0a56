//! A load from its first request to the end of its last answer.
//!
//! It must never wait between requests for anything but their arrival and a free place.
//!
//! Start reading at [`run`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::client::Client;
use crate::cpu::{own_seconds, seconds_of};
use crate::error::invalid;
use crate::{Arrivals, BenchError, Output, Sample, Target};

/// What is sent, where to, and when.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where requests go.
    pub target: Target,
    /// `/v1/completions` or `/v1/chat/completions`; by default the one that takes each prompt as it is.
    pub endpoint: Option<String>,
    /// The name of the model.
    pub model: String,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
    /// When requests are sent.
    pub arrivals: Arrivals,
    /// Requests in flight at once; no bound by default.
    pub max_concurrency: Option<usize>,
    /// A request that takes longer has failed.
    pub timeout: Duration,
    /// Whether answers go on behind the token that ends them.
    pub ignore_eos: bool,
    /// The temperature, and whatever else a body is to hold; goes before what is made here.
    pub extra_body: Map<String, Value>,
    /// Decides arrival times.
    pub seed: u64,
    /// The server's process on this machine, whose CPU time is measured.
    pub server_pid: Option<u32>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// One for each sample, in their order.
    pub outputs: Vec<Output>,
    /// From the start to the end of the last answer.
    pub duration_s: f64,
    /// CPU seconds of this process.
    pub client_cpu_s: f64,
    /// CPU seconds of the server's process.
    pub server_cpu_s: Option<f64>,
}

/// Sends `warmups` and then every sample, on one thread. `progress` hears how many ended.
///
/// # Errors
/// An option outside of its range, or a prompt that the endpoint cannot take. What requests suffer is in their outputs.
pub fn run(
    options: &LoadOptions,
    warmups: &[Sample],
    samples: &[Sample],
    mut progress: impl FnMut(usize),
) -> Result<Run, BenchError> {
    if options.max_concurrency == Some(0) {
        return Err(invalid("max_concurrency", 0, "at least 1"));
    }
    let offsets = options.arrivals.offsets(samples, options.seed)?;
    let warm = requests(options, warmups)?;
    let requests = requests(options, samples)?;
    let client = Arc::new(Client::new(options.target.clone(), options.api_key.as_deref())?);
    let start =
        |requests, offsets| Load { options, client: Arc::clone(&client), requests, offsets };
    runtime()?.block_on(async {
        let at_once = vec![0.0; warm.len()];
        start(warm, at_once).send_all(|_| ()).await;
        let cpu = || options.server_pid.map(seconds_of).transpose();
        let (own_cpu, server_cpu, started) = (own_seconds(), cpu()?, Instant::now());
        let outputs = start(requests, offsets).send_all(&mut progress).await;
        Ok(Run {
            outputs,
            duration_s: started.elapsed().as_secs_f64(),
            client_cpu_s: own_seconds() - own_cpu,
            server_cpu_s: server_cpu.zip(cpu()?).map(|(before, after)| after - before),
        })
    })
}

/// The first model that a server names.
///
/// # Errors
/// It cannot be reached, or names none.
pub fn served_model(target: &Target, api_key: Option<&str>) -> Result<String, BenchError> {
    let client = Client::new(target.clone(), api_key)?;
    let models = runtime()?.block_on(client.get("/v1/models"))?;
    let id = models["data"][0]["id"].as_str();
    id.map(str::to_owned).ok_or_else(|| BenchError::Server {
        url: target.url("/v1/models"),
        problem: "the list of models is empty; give --model".to_owned(),
    })
}

/// One thread, so that the load takes little from a server on the same machine.
fn runtime() -> Result<tokio::runtime::Runtime, BenchError> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|source| BenchError::System { what: "start the client".to_owned(), source })
}

/// An endpoint and a body.
type Prepared = (String, Bytes);

/// Bodies are made before the clock runs.
fn requests(options: &LoadOptions, samples: &[Sample]) -> Result<Vec<Prepared>, BenchError> {
    let prepare = |(i, sample): (usize, &Sample)| {
        let own = || sample.prompt.own_endpoint().to_owned();
        let endpoint = options.endpoint.clone().unwrap_or_else(own);
        let is_chat = endpoint.ends_with("/chat/completions");
        let Some((field, prompt)) = sample.prompt.field(is_chat) else {
            let what = if is_chat { "token ids" } else { "messages" };
            let limit = format!("one that takes {what}, as prompt {} is", i + 1);
            return Err(invalid("endpoint", endpoint, &limit));
        };
        let mut body = json!({
            "model": options.model,
            field: prompt,
            "max_tokens": sample.output_tokens,
            "temperature": 0.0,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if options.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
        for (name, value) in &options.extra_body {
            body[name] = value.clone();
        }
        Ok((endpoint, Bytes::from(body.to_string())))
    };
    samples.iter().enumerate().map(prepare).collect()
}

/// Requests and when each is sent.
struct Load<'a> {
    options: &'a LoadOptions,
    client: Arc<Client>,
    requests: Vec<Prepared>,
    offsets: Vec<f64>,
}

impl Load<'_> {
    async fn send_all(self, mut progress: impl FnMut(usize)) -> Vec<Output> {
        let n_requests = self.requests.len();
        let mut outputs = vec![Output::default(); n_requests];
        let limit = self.options.max_concurrency.unwrap_or(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        let (mut running, mut n_done) = (JoinSet::new(), 0);
        let origin = Instant::now();
        let mut keep = |joined: Result<(usize, Output), tokio::task::JoinError>| {
            let (i, output) = joined.expect("a request does not panic: this is a bug");
            outputs[i] = output;
            n_done += 1;
            progress(n_done);
        };
        for (i, ((endpoint, body), offset)) in
            self.requests.into_iter().zip(self.offsets).enumerate()
        {
            let due = origin + Duration::from_secs_f64(offset);
            if offset > 0.0 {
                sleep_until(due.into()).await;
            }
            while let Some(joined) = running.try_join_next() {
                keep(joined);
            }
            let (client, places) = (Arc::clone(&self.client), Arc::clone(&places));
            let patience = self.options.timeout;
            running.spawn(async move {
                let _place = places.acquire_owned().await.expect("nobody closes it: this is a bug");
                let start_s = origin.elapsed().as_secs_f64();
                let sent = timeout(patience, client.stream(&endpoint, body, origin)).await;
                let output = sent.unwrap_or_else(|_| {
                    let reason = format!("not complete after {} s", patience.as_secs_f64());
                    Output { error: Some(reason), start_s, ..Output::default() }
                });
                (i, output)
            });
        }
        while let Some(joined) = running.join_next().await {
            keep(joined);
        }
        outputs
    }
}
