//! How likely a model would have said what is expected, without an answer.
//!
//! It must never count a token that is not the expected text's.

use lm_feedback::{Case, Outcome as Said};
use serde_json::{Value, json};

use crate::ask::Asker;

impl Asker<'_> {
    /// Has the tokens of the expected text scored, where an answer would stand; what would end it is not counted.
    pub(crate) fn likelihood(&self, case: &Case) -> Said {
        let expected = case.expected.as_deref().unwrap_or_default();
        match self.mean_logprob(&case.messages, expected) {
            Ok(mean) => Said { mean_logprob: Some(mean), ..Said::default() },
            Err(error) => Said { error: Some(error), ..Said::default() },
        }
    }

    fn mean_logprob(&self, messages: &[Value], expected: &str) -> Result<f64, String> {
        let asked = self.tokens(&json!({ "model": self.model, "messages": messages }))?;
        let answer = self.tokens(&json!({
            "model": self.model,
            "prompt": expected,
            "add_special_tokens": false,
            "parse_special": false,
        }))?;
        let prompt: Vec<u64> = asked.iter().chain(&answer).copied().collect();
        let told = self.post(
            "/v1/completions",
            None,
            &json!({
                "model": self.model,
                "prompt": prompt,
                "max_tokens": 0,
                "prompt_logprobs": 0,
            }),
        )?;
        mean_of(&told["choices"][0]["prompt_logprobs"], asked.len(), &answer)
    }

    fn tokens(&self, text: &Value) -> Result<Vec<u64>, String> {
        let told = self.post("/tokenize", None, text)?;
        let tokens = told["tokens"].as_array();
        let tokens = tokens.and_then(|list| list.iter().map(Value::as_u64).collect());
        tokens.ok_or_else(|| "the server names no tokens".to_owned())
    }
}

/// The mean of the last tokens of a prompt, before which there are `n_before`.
fn mean_of(told: &Value, n_before: usize, tokens: &[u64]) -> Result<f64, String> {
    if tokens.is_empty() || n_before == 0 {
        return Err("the expected text or what is asked has no token".to_owned());
    }
    let missing = || "the server tells no log-probabilities of its prompt".to_owned();
    let entries = told.as_array().filter(|list| list.len() == n_before + tokens.len());
    let entries = entries.ok_or_else(missing)?;
    let mut sum = 0.0;
    for (entry, token) in entries[n_before..].iter().zip(tokens) {
        sum += entry[token.to_string()]["logprob"].as_f64().ok_or_else(missing)?;
    }
    Ok(sum / tokens.len() as f64)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn only_the_expected_tokens_count() {
        let entry = |token: u64, logprob: f64| json!({ token.to_string(): { "logprob": logprob } });
        let told = json!([null, entry(5, -9.0), entry(7, -1.0), entry(8, -2.0)]);
        assert!((mean_of(&told, 2, &[7, 8]).unwrap() + 1.5).abs() < 1e-9);
        assert!(mean_of(&told, 2, &[7, 9]).is_err(), "another token was scored");
        assert!(mean_of(&told, 2, &[7]).is_err() && mean_of(&Value::Null, 2, &[7, 8]).is_err());
        assert!(mean_of(&told, 4, &[]).is_err() && mean_of(&told, 0, &[5, 5, 7, 8]).is_err());
    }
}
