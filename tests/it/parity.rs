//! The executor beside llama.cpp: how well each model predicts the same text.

use lastmile::{KvType, ModelSource, RuntimeConfig};

use crate::real_model;

const TEXT: &str = include_str!("../golden/gpl-3.0.txt");
const GOLDEN: &str = include_str!("../golden/perplexity.json");

#[track_caller]
fn check(card: &str, device: &str) {
    let golden: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
    let expected = golden["reference"][card].as_f64().unwrap();
    let (ctx, windows) = (golden["ctx"].as_u64().unwrap(), golden["windows"].as_u64().unwrap());
    let mut config = RuntimeConfig::new(ModelSource::path(real_model::path(card)));
    config.device = device.to_owned();
    let score = |config: &RuntimeConfig| {
        let found = lastmile::perplexity(config, TEXT, ctx as usize, None, |_, _, _| ()).unwrap();
        assert_eq!(found.n_windows as u64, windows, "the text was cut into other windows");
        found.perplexity
    };
    let found = score(&config);
    let off = found / expected - 1.0;
    println!("{card} on {device}: {found:.4}, llama.cpp {expected}: {off:+.5}");
    assert!(off.abs() < 0.005, "{card}: {found:.4}, expected {expected}");
    if device == "cpu" {
        config.kv_type = Some(KvType::Int8);
        let with_int8 = score(&config);
        let off = with_int8 / found - 1.0;
        println!("{card} with an int8 KV cache: {with_int8:.4}: {off:+.5}");
        assert!(off.abs() < 0.005 && off != 0.0, "{card}: {with_int8:.4} instead of {found:.4}");
    }
}

#[test]
fn real_model_perplexity_of_smollm2_is_that_of_llama_cpp() {
    check("smollm2-135m-instruct", "cpu");
}

#[test]
fn real_model_perplexity_of_gemma3_is_that_of_llama_cpp() {
    check("gemma3-270m", "cpu");
}

#[test]
fn real_model_perplexity_of_smollm2_on_the_reference_executor_is_that_of_llama_cpp() {
    check("smollm2-135m-instruct", "candle");
}

#[test]
fn real_model_perplexity_of_gemma3_on_the_reference_executor_is_that_of_llama_cpp() {
    check("gemma3-270m", "candle");
}
