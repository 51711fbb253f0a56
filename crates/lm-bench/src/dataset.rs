//! What is asked: prompts with the length of their answers.
//!
//! It must never know a tokenizer: the server's `usage` says how many tokens a prompt was.
//!
//! Start reading at [`Sample`].

use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::BenchError;
use crate::error::invalid;

/// Words that are one token, with the space before them, in the vocabularies of most models.
const WORDS: &str = "the of and to in is that for it as was with be by on not he his but at are this have from or had they \
which one you were her all she there would their we him been has when who will more no if out so said what up its about into \
than them can only other new some could time these two may then do first any my now such like our over man me even most made \
after also did many before must through back years where much your way well down should because each just those people";
/// A prompt begins with a number that no cache has seen; a digit is a token in most models.
const NUMBER_TOKENS: usize = 18;
/// Bytes of English text to a token, where nobody counted.
const BYTES_PER_TOKEN: usize = 4;
/// As `vllm bench serve` cuts ShareGPT: shortest text, longest prompt, and longest prompt and answer together, in tokens.
const SHAREGPT_LIMITS: (usize, usize, usize) = (4, 1024, 2048);

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What is asked.
    pub prompt: PromptBody,
    /// Its tokens as far as known; the server's count goes before it.
    pub prompt_tokens: usize,
    /// `max_tokens` of the request.
    pub output_tokens: usize,
    /// When it was sent, in seconds from any beginning.
    pub recorded_s: Option<f64>,
}

/// What is asked, in the form that the API takes.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptBody {
    /// Raw text, or one message of a user.
    Text(String),
    /// Token ids; completions only.
    Tokens(Vec<u32>),
    /// A list of messages; chat only.
    Messages(Value),
}

/// Lengths that are drawn for each prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthRange {
    /// Tokens of a prompt.
    pub input_tokens: usize,
    /// Tokens of an answer.
    pub output_tokens: usize,
    /// Both vary evenly by this share of them, from 0 up to but without 1.
    pub range_ratio: f64,
}

impl PromptBody {
    /// The API that takes it as it is.
    pub(crate) fn own_endpoint(&self) -> &'static str {
        match self {
            PromptBody::Messages(_) => "/v1/chat/completions",
            _ => "/v1/completions",
        }
    }

    /// The field of a request and its value; `None` when this API does not take it.
    pub(crate) fn field(&self, is_chat: bool) -> Option<(&'static str, Value)> {
        match (self, is_chat) {
            (PromptBody::Text(text), true) => {
                Some(("messages", json!([{"role": "user", "content": text}])))
            }
            (PromptBody::Messages(messages), true) => Some(("messages", messages.clone())),
            (PromptBody::Text(text), false) => Some(("prompt", json!(text))),
            (PromptBody::Tokens(tokens), false) => Some(("prompt", json!(tokens))),
            (PromptBody::Tokens(_), true) | (PromptBody::Messages(_), false) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            PromptBody::Text(text) => text.len(),
            PromptBody::Tokens(tokens) => tokens.len() * BYTES_PER_TOKEN,
            PromptBody::Messages(messages) => {
                let content = |message: &Value| message["content"].as_str().map_or(0, str::len);
                messages.as_array().map_or(0, |all| all.iter().map(content).sum())
            }
        }
    }
}

/// Prompts of random words behind a random number, so that no two share a prefix.
///
/// # Errors
/// A length or ratio outside its range.
pub fn random(n: usize, lengths: &LengthRange, seed: u64) -> Result<Vec<Sample>, BenchError> {
    let LengthRange { input_tokens, output_tokens, range_ratio } = *lengths;
    if input_tokens == 0 || output_tokens == 0 {
        let name = if input_tokens == 0 { "random_input_len" } else { "random_output_len" };
        return Err(invalid(name, 0, "at least 1"));
    }
    if !(0.0..1.0).contains(&range_ratio) {
        return Err(invalid("random_range_ratio", range_ratio, "from 0 up to but without 1"));
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let sample = |_| {
        let mut around = |tokens: usize| {
            let spread = tokens as f64 * range_ratio;
            let (low, high) = (tokens as f64 - spread, tokens as f64 + spread);
            rng.random_range((low.floor().max(1.0) as usize)..=(high.ceil() as usize))
        };
        let (input, output_tokens) = (around(input_tokens), around(output_tokens));
        let n_digits = NUMBER_TOKENS.min(input);
        let mut text: String = (0..n_digits).map(|_| rng.random_range('0'..='9')).collect();
        for _ in n_digits..input {
            text.push(' ');
            text.push_str(words[rng.random_range(0..words.len())]);
        }
        Sample {
            prompt: PromptBody::Text(text),
            prompt_tokens: input,
            output_tokens,
            recorded_s: None,
        }
    };
    Ok((0..n).map(sample).collect())
}

/// The first question of `n` conversations of a ShareGPT file, shuffled. Without `output_tokens` an answer gets as many as the
/// recorded one has bytes divided by four.
///
/// # Errors
/// The file cannot be read, is not of this format, or holds too few usable conversations.
pub fn sharegpt(
    path: &Path,
    n: usize,
    output_tokens: Option<usize>,
    seed: u64,
) -> Result<Vec<Sample>, BenchError> {
    #[derive(Deserialize)]
    struct Conversation {
        #[serde(default, alias = "conversation")]
        conversations: Vec<Turn>,
    }
    #[derive(Deserialize)]
    struct Turn {
        value: String,
    }
    let text = read(path)?;
    let problem = |problem: String| BenchError::Dataset {
        path: path.to_owned(),
        place: "as ShareGPT".to_owned(),
        problem,
    };
    let mut all: Vec<Conversation> =
        serde_json::from_str(&text).map_err(|error| problem(error.to_string()))?;
    all.shuffle(&mut StdRng::seed_from_u64(seed));
    let (shortest, longest, most) = SHAREGPT_LIMITS;
    let sample = |conversation: Conversation| {
        let [question, answer, ..] = &conversation.conversations[..] else { return None };
        let tokens = |text: &str| text.len() / BYTES_PER_TOKEN;
        let (prompt_tokens, recorded) = (tokens(&question.value), tokens(&answer.value));
        let output_tokens = output_tokens.unwrap_or(recorded);
        let fits = prompt_tokens >= shortest
            && output_tokens >= shortest
            && prompt_tokens <= longest
            && prompt_tokens + output_tokens <= most;
        let prompt = PromptBody::Text(question.value.clone());
        fits.then_some(Sample { prompt, prompt_tokens, output_tokens, recorded_s: None })
    };
    let samples: Vec<Sample> = all.into_iter().filter_map(sample).take(n).collect();
    if samples.len() < n {
        let found = samples.len();
        return Err(problem(format!("{found} usable conversations, but num_prompts is {n}")));
    }
    Ok(samples)
}

/// A line of a JSONL file.
#[derive(Deserialize)]
struct Line {
    prompt: Option<Value>,
    messages: Option<Value>,
    #[serde(alias = "output_tokens", alias = "max_tokens")]
    output_len: Option<usize>,
    timestamp: Option<f64>,
}

/// The first `n` lines of a JSONL file of `{"prompt" | "messages", "output_len"}`; lines without a length get
/// `output_tokens`.
///
/// # Errors
/// The file cannot be read, a line is not of this form, or there are too few.
pub fn custom(path: &Path, n: usize, output_tokens: usize) -> Result<Vec<Sample>, BenchError> {
    let samples = lines(path, n, output_tokens)?;
    if samples.len() < n {
        let (place, found) = ("as a whole".to_owned(), samples.len());
        let problem = format!("{found} prompts, but num_prompts is {n}");
        return Err(BenchError::Dataset { path: path.to_owned(), place, problem });
    }
    Ok(samples)
}

/// At most `n` lines of a JSONL file of `{"timestamp": seconds, "prompt" | "messages", "output_len"}`, by time.
///
/// # Errors
/// The file cannot be read, a line is not of this form, or there is none.
pub fn recorded(path: &Path, n: usize, output_tokens: usize) -> Result<Vec<Sample>, BenchError> {
    let mut samples = lines(path, n, output_tokens)?;
    let untimed = samples.iter().position(|sample| sample.recorded_s.is_none());
    if let Some(i) = untimed {
        let (place, problem) = (format!("line {}", i + 1), "timestamp is absent".to_owned());
        return Err(BenchError::Dataset { path: path.to_owned(), place, problem });
    }
    samples.sort_by(|a, b| a.recorded_s.partial_cmp(&b.recorded_s).expect("times are finite"));
    Ok(samples)
}

fn lines(path: &Path, n: usize, output_tokens: usize) -> Result<Vec<Sample>, BenchError> {
    let text = read(path)?;
    let mut samples = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() || samples.len() == n {
            continue;
        }
        let problem = |problem: String| BenchError::Dataset {
            path: path.to_owned(),
            place: format!("line {}", i + 1),
            problem,
        };
        let line: Line = serde_json::from_str(line).map_err(|error| problem(error.to_string()))?;
        let prompt = prompt_of(line.prompt, line.messages).map_err(&problem)?;
        let output_tokens = line.output_len.unwrap_or(output_tokens);
        if output_tokens == 0 {
            return Err(problem("output_len is 0, but must be at least 1".to_owned()));
        }
        if let Some(time) = line.timestamp.filter(|time| !time.is_finite()) {
            return Err(problem(format!("timestamp is {time}, but must be seconds")));
        }
        let prompt_tokens = prompt.bytes() / BYTES_PER_TOKEN;
        samples.push(Sample { prompt, prompt_tokens, output_tokens, recorded_s: line.timestamp });
    }
    if samples.is_empty() {
        let (place, problem) = ("as a whole".to_owned(), "no prompts".to_owned());
        return Err(BenchError::Dataset { path: path.to_owned(), place, problem });
    }
    Ok(samples)
}

fn prompt_of(prompt: Option<Value>, messages: Option<Value>) -> Result<PromptBody, String> {
    match (prompt, messages) {
        (Some(Value::String(text)), None) => Ok(PromptBody::Text(text)),
        (Some(Value::Array(tokens)), None) => {
            let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
            let tokens = tokens.iter().map(token).collect::<Option<Vec<u32>>>();
            tokens
                .map(PromptBody::Tokens)
                .ok_or("prompt is a list, but not of token ids".to_owned())
        }
        (None, Some(messages @ Value::Array(_))) => Ok(PromptBody::Messages(messages)),
        (Some(_), Some(_)) => Err("prompt and messages are both given".to_owned()),
        (None, None) => Err("prompt and messages are absent".to_owned()),
        (Some(_), None) => Err("prompt is neither a text nor a list of token ids".to_owned()),
        (None, Some(_)) => Err("messages is not a list".to_owned()),
    }
}

fn read(path: &Path) -> Result<String, BenchError> {
    std::fs::read_to_string(path)
        .map_err(|source| BenchError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn random_prompts_have_their_length_and_differ_from_the_first_token_on() {
        let lengths = LengthRange { input_tokens: 118, output_tokens: 64, range_ratio: 0.0 };
        let samples = random(50, &lengths, 3).unwrap();
        assert_eq!(samples, random(50, &lengths, 3).unwrap());
        let PromptBody::Text(text) = &samples[0].prompt else { panic!("a text") };
        assert_eq!(text.split(' ').count(), 101);
        assert_eq!((samples[0].prompt_tokens, samples[0].output_tokens), (118, 64));
        let starts: BTreeSet<String> =
            samples.iter().map(|s| format!("{:?}", s.prompt)[..24].to_owned()).collect();
        assert_eq!(starts.len(), 50);
        let ranged = random(200, &LengthRange { range_ratio: 0.5, ..lengths }, 3).unwrap();
        let lens: Vec<usize> = ranged.iter().map(|sample| sample.prompt_tokens).collect();
        assert!(lens.iter().all(|len| (59..=177).contains(len)));
        assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() > 90);
        let error = random(1, &LengthRange { range_ratio: 1.0, ..lengths }, 0).unwrap_err();
        assert!(error.to_string().contains("random_range_ratio"), "{error}");
    }

    #[track_caller]
    fn check(text: &str, expect: Result<usize, &str>) {
        let path = std::env::temp_dir().join(format!("lm-bench-{}.jsonl", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let found = recorded(&path, 10, 8);
        std::fs::remove_file(&path).unwrap();
        match (found, expect) {
            (Ok(samples), Ok(n)) => assert_eq!(samples.len(), n),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expect) => panic!("{found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn recorded_lines_are_read_and_bad_ones_named() {
        check("{\"timestamp\":2,\"prompt\":\"a\"}\n\n{\"timestamp\":1.5,\"prompt\":[1,2]}", Ok(2));
        check("{\"timestamp\":2,\"messages\":[]}", Ok(1));
        check("{\"prompt\":\"a\"}", Err("line 1: timestamp"));
        check("{\"timestamp\":1,\"prompt\":\"a\"}\n{\"timestamp\":1}", Err("line 2: prompt and"));
        check("{\"timestamp\":1,\"prompt\":[\"a\"]}", Err("token ids"));
        check("{\"timestamp\":1,\"prompt\":\"a\",\"output_len\":0}", Err("output_len is 0"));
        check("nonsense", Err("line 1"));
        check("", Err("no prompts"));
    }
}
