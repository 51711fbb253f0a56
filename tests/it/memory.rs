//! The memory ledger: what `lastmile plan` promises is what a loaded model takes, and what does not fit is
//! refused before it is loaded.

use lastmile::{KvType, LoadError, MemoryPlan, ModelSource, Runtime, RuntimeConfig};

use crate::program::Home;
use crate::real_model;

const MIB: u64 = 1 << 20;

fn config(device: &str) -> RuntimeConfig {
    let path = real_model::path("smollm2-135m-instruct");
    RuntimeConfig { device: device.to_owned(), ..RuntimeConfig::new(ModelSource::path(path)) }
}

/// Bytes of this process that are neither files nor shared.
#[cfg(target_os = "linux")]
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn real_model_what_is_planned_is_what_is_loaded() {
    for (device, kv_type) in [("cpu", None), ("cpu", Some(KvType::Int8)), ("candle", None)] {
        let config = RuntimeConfig { kv_bytes: Some(100 * MIB), kv_type, ..config(device) };
        let plan = MemoryPlan::of(&config).unwrap();
        let runtime = Runtime::start(config).unwrap();
        let backend = &runtime.info().backend;
        let weights = plan.parts.iter().find(|(name, _)| *name == "weights").unwrap().1;
        assert_eq!((weights, plan.kv_bytes), (backend.weights_bytes, backend.kv_bytes), "{device}");
        assert_eq!(plan.n_slots(), (backend.n_blocks * backend.block_size) as u64);
        assert_eq!((plan.executor, plan.kv_type), (device, backend.kv_type));
    }
}

#[test]
fn real_model_what_does_not_fit_is_refused_with_both_numbers() {
    let limited = |limit: u64, kv_bytes| {
        let config = RuntimeConfig { memory_limit: Some(limit), kv_bytes, ..config("cpu") };
        MemoryPlan::of(&config).map(|plan| (plan, Runtime::start(config)))
    };
    let (plan, started) = limited(600 * MIB, Some(1024 * MIB)).unwrap();
    let Err(LoadError::OutOfMemory { needed, limit, kv_room, .. }) = started else {
        panic!("it started although it needs {} bytes", plan.total_bytes());
    };
    assert_eq!((needed, limit.bytes), (plan.total_bytes(), 600 * MIB));
    // What is said to fit does, and a block more does not.
    let (plan, started) = limited(600 * MIB, Some(kv_room)).unwrap();
    assert!(started.is_ok() && plan.fits() && plan.kv_bytes == kv_room);
    let (_, started) = limited(600 * MIB, Some(kv_room + plan.kv_block.0)).unwrap();
    assert!(started.is_err());
    // Who does not say how much KV gets what there is room for.
    let (plan, started) = limited(600 * MIB, None).unwrap();
    assert!(started.is_ok() && plan.kv_bytes < 1024 * MIB && plan.kv_bytes > 100 * MIB);
    // Not even the weights fit.
    let (plan, started) = limited(20 * MIB, None).unwrap();
    assert!(started.is_err() && !plan.fits() && plan.kv_bytes == 0);
}

#[test]
#[cfg(target_os = "linux")]
fn real_model_under_load_takes_no_more_than_planned() {
    use lastmile::{GenerateRequest, Prompt, RequestId};
    let config = RuntimeConfig { kv_bytes: Some(64 * MIB), ..config("cpu") };
    let plan = MemoryPlan::of(&config).unwrap();
    let before = anonymous_bytes();
    let runtime = Runtime::start(config).unwrap();
    let answers: Vec<_> = (0..40u128)
        .map(|i| {
            let prompt = Prompt::Tokens((0..90).map(|token| 300 + 7 * token + i as u32).collect());
            let mut request = GenerateRequest::new(RequestId(i), prompt);
            request.stop.max_tokens = Some(8);
            request.sampling.temperature = 1.0;
            runtime.generate(request).unwrap().remove(0)
        })
        .collect();
    for answer in answers {
        answer.collect_answer().unwrap();
    }
    let taken = anonymous_bytes().saturating_sub(before);
    println!("planned {}, taken {taken}", plan.total_bytes());
    // Tests that run beside this one in the same process take memory too.
    assert!(taken < plan.total_bytes() + 200 * MIB, "{taken} of {}", plan.total_bytes());
}

#[test]
fn a_plan_is_one_json_document_and_its_status_says_whether_it_fits() {
    let home = Home::new();
    let model = "placeholder:n_blocks=100,block_size=32";
    let plan = home.run(["plan", model, "--json"]).json();
    assert_eq!(
        (plan["fits"].as_bool(), plan["kv_cache_tokens"].as_u64()),
        (Some(true), Some(3200))
    );
    assert_eq!(plan["contexts"][0]["context"], 512);
    assert_eq!(plan["contexts"][0]["sequences"], 6);
    let tight = home.run(["plan", model, "--memory-limit", "1"]);
    assert_eq!(tight.status, 1, "{tight:?}");
    assert!(tight.stdout.contains("does not fit"), "{tight:?}");
    let serve = ["serve", "--model", model, "--port", "0", "--memory-limit", "1"];
    home.run(serve).refused(3, &["117440512", "1048576", "memory_limit"]);
}
