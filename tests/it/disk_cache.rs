//! The prefix cache on disk: what was computed before a restart comes back as the same bits, for the same model
//! and tenant only, and whatever is not as it was written is computed again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lastmile::{
    Answer, CacheMissReason, DiskCacheConfig, GenerateRequest, KvType, LoadError, ModelSource,
    Prompt, RequestId, Runtime, RuntimeConfig, SamplingParams, TenantId, TokenId,
};

use crate::real_model;

const MIB: u64 = 1 << 20;
const END: Duration = Duration::from_secs(30);

fn placeholder(options: &str) -> RuntimeConfig {
    RuntimeConfig::new(ModelSource::placeholder(options).unwrap())
}

fn smollm2(kv_type: KvType) -> RuntimeConfig {
    let path = real_model::path("smollm2-135m-instruct");
    let kv_bytes = Some(64 * MIB);
    RuntimeConfig {
        kv_type: Some(kv_type),
        kv_bytes,
        ..RuntimeConfig::new(ModelSource::path(path))
    }
}

fn with_cache(config: &RuntimeConfig, folder: &Path) -> RuntimeConfig {
    let disk_cache = Some(DiskCacheConfig { folder: folder.to_owned(), max_bytes: 1 << 30 });
    RuntimeConfig { disk_cache, ..config.clone() }
}

/// Token ids that both the placeholder and the real models know as words.
fn prompt(seed: u32, n_tokens: u32) -> Vec<TokenId> {
    (0..n_tokens).map(|i| 300 + (seed * 31 + i * 7 + i * i % 11) % 190).collect()
}

fn ask(runtime: &Runtime, tenant: u64, prompt: Vec<TokenId>) -> Answer {
    let mut request = GenerateRequest::new(RequestId(1), Prompt::Tokens(prompt));
    request.sampling = SamplingParams::greedy();
    request.stop.max_tokens = Some(24);
    request.stop.ignore_eos = true;
    request.tenant = TenantId(tenant);
    runtime.complete(request).unwrap().remove(0)
}

fn wait_until_written(runtime: &Runtime, n_blocks: u64) {
    let began = Instant::now();
    while runtime.stats().block_store.unwrap().written_blocks < n_blocks {
        assert!(began.elapsed() < END, "{:?}", runtime.stats().block_store);
        std::thread::yield_now();
    }
}

fn block_files(folder: &Path) -> Vec<PathBuf> {
    let below = |path: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let mut files: Vec<PathBuf> = below(folder).iter().flat_map(|path| below(path)).collect();
    files.sort();
    files
}

/// Answers before and after a restart, by a process with another context length; what came from disk.
fn check_restart(config: &RuntimeConfig) {
    let folder = tempfile::tempdir().unwrap();
    let first = Runtime::start(with_cache(config, folder.path())).unwrap();
    let prompts: Vec<_> = (0..3).map(|seed| prompt(seed, 150 + 40 * seed)).collect();
    let before: Vec<Answer> = prompts.iter().map(|p| ask(&first, 7, p.clone())).collect();
    first.shutdown(END);
    let n_files = block_files(folder.path()).len();
    assert!(n_files >= 12, "only {n_files} blocks are kept");

    let shorter = RuntimeConfig { max_model_len: Some(600), ..with_cache(config, folder.path()) };
    let second = Runtime::start(shorter).unwrap();
    let n_slots = second.info().backend.block_size;
    for (prompt, before) in prompts.iter().zip(&before) {
        let after = ask(&second, 7, prompt.clone());
        assert_eq!(after.tokens, before.tokens);
        let n_full = (prompt.len() - 1) / n_slots;
        assert_eq!(after.finish.usage.cached_tokens as usize, n_full * n_slots);
        let timings = after.finish.timings;
        assert_eq!(timings.n_cached_blocks as usize, n_full);
        assert_eq!(timings.first_miss, Some((n_full, CacheMissReason::PartialBlock)));
    }
    // A conversation goes on: what was generated is kept, too.
    let longer = [prompts[0].clone(), before[0].tokens.clone(), prompt(9, 10)].concat();
    let n_kept = (prompts[0].len() + before[0].tokens.len() - 1) / n_slots * n_slots;
    let goes_on = ask(&second, 7, longer.clone());
    assert_eq!(goes_on.finish.usage.cached_tokens as usize, n_kept);
    let plain = Runtime::start(config.clone()).unwrap();
    assert_eq!(goes_on.tokens, ask(&plain, 7, longer).tokens);

    // Another tenant learns nothing, neither from the time nor from the reason.
    let stranger = ask(&second, 8, prompts[0].clone());
    assert_eq!(stranger.tokens, before[0].tokens);
    assert_eq!(stranger.finish.usage.cached_tokens, 0);
    assert_eq!(stranger.finish.timings.first_miss, Some((0, CacheMissReason::NeverSeen)));
    let store = second.stats().block_store.unwrap();
    assert!(store.hit_blocks >= 12 && store.hit_blocks == store.asked_blocks, "{store:?}");
    assert!(store.unusable.iter().chain(&store.dropped).all(|(_, n)| *n == 0), "{store:?}");
    second.shutdown(END);
}

#[test]
fn after_a_restart_the_placeholder_answers_from_disk() {
    check_restart(&placeholder("seed=3"));
}

#[test]
fn real_model_after_a_restart_f16_answers_from_disk() {
    check_restart(&smollm2(KvType::F16));
}

#[test]
fn real_model_after_a_restart_int8_answers_from_disk() {
    check_restart(&smollm2(KvType::Int8));
}

/// Has one block's file harmed; the answers stay, the harm is counted as `unusable`, the file is gone and
/// comes back.
fn check_harm(unusable: &str, harm: impl Fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let config = with_cache(&placeholder("seed=3"), folder.path());
    let first = Runtime::start(config.clone()).unwrap();
    let before = ask(&first, 7, prompt(0, 200));
    first.shutdown(END);
    let files = block_files(folder.path());
    for file in &files {
        harm(file);
    }
    let second = Runtime::start(config).unwrap();
    let after = ask(&second, 7, prompt(0, 200));
    assert_eq!(after.tokens, before.tokens, "{unusable}");
    assert_eq!(after.finish.usage.cached_tokens, 0);
    assert_eq!(after.finish.timings.first_miss, Some((0, CacheMissReason::Corrupt)));
    let store = second.stats().block_store.unwrap();
    let counted = store.unusable.iter().find(|(reason, _)| *reason == unusable).unwrap().1;
    assert!(counted >= 1, "{store:?}");
    second.shutdown(END);
    // What was noticed is replaced by what was computed again; after it more may be harmed.
    let third = Runtime::start(with_cache(&placeholder("seed=3"), folder.path())).unwrap();
    let again = ask(&third, 7, prompt(0, 200));
    assert_eq!(again.tokens, before.tokens);
    assert!(again.finish.usage.cached_tokens >= 32);
}

#[test]
fn files_that_are_not_as_they_were_written_are_computed_again() {
    let flip = |at: fn(usize) -> usize| {
        move |path: &Path| {
            let mut bytes = std::fs::read(path).unwrap();
            let at = at(bytes.len());
            bytes[at] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
    };
    check_harm("corrupt", flip(|len| len - 1));
    // A token, the digest, then what names key and block.
    check_harm("corrupt", flip(|_| 121));
    check_harm("corrupt", flip(|_| 90));
    check_harm("foreign", flip(|_| 20));
    check_harm("foreign", flip(|_| 0));
    let cut = |len: fn(usize) -> usize| {
        move |path: &Path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..len(bytes.len())]).unwrap();
        }
    };
    check_harm("torn", cut(|len| len - 1));
    check_harm("torn", cut(|_| 50));
    check_harm("torn", cut(|_| 0));
}

#[test]
fn another_models_blocks_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (placeholder("seed=3"), placeholder("seed=4"));
    for config in [&one, &other] {
        let runtime = Runtime::start(with_cache(config, folder.path())).unwrap();
        let answer = ask(&runtime, 7, prompt(0, 200));
        // Beside each other they take nothing from each other.
        assert_eq!(answer.finish.timings.first_miss, Some((0, CacheMissReason::NeverSeen)));
        runtime.shutdown(END);
    }
    // The names are the same, since prompt and tenant are: each file takes the other's place.
    let files = block_files(folder.path());
    let (ours, theirs) = files.split_at(files.len() / 2);
    for (a, b) in ours.iter().zip(theirs) {
        let spare = folder.path().join("spare");
        std::fs::rename(a, &spare).unwrap();
        std::fs::rename(b, a).unwrap();
        std::fs::rename(&spare, b).unwrap();
    }
    let plain = ask(&Runtime::start(one.clone()).unwrap(), 7, prompt(0, 200));
    let runtime = Runtime::start(with_cache(&one, folder.path())).unwrap();
    let answer = ask(&runtime, 7, prompt(0, 200));
    assert_eq!(answer.tokens, plain.tokens);
    assert_eq!(answer.finish.usage.cached_tokens, 0);
    let store = runtime.stats().block_store.unwrap();
    assert!(store.unusable.iter().any(|(reason, n)| *reason == "foreign" && *n > 0), "{store:?}");
}

#[test]
fn the_folder_stays_within_its_bytes_and_strangers_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let max_bytes = 40 * 1000;
    let config = RuntimeConfig {
        disk_cache: Some(DiskCacheConfig { folder: folder.path().to_owned(), max_bytes }),
        ..placeholder("seed=3,n_blocks=64,max_model_len=1024")
    };
    let runtime = Runtime::start(config.clone()).unwrap();
    let own = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    for path in [folder.path().join("notes.txt"), own.join("notes.txt")] {
        std::fs::write(path, "mine").unwrap();
    }
    for seed in 0..30 {
        ask(&runtime, 7, prompt(seed, 300));
        // Faster than the disk is dropped; here everything has to come in turn.
        wait_until_written(&runtime, 9 * (u64::from(seed) + 1));
        // The oldest go first, by times of files that are as coarse as a clock's tick.
        std::thread::park_timeout(Duration::from_millis(20));
    }
    runtime.shutdown(END);
    let store = runtime.stats().block_store.unwrap();
    assert!(store.evicted_blocks > 100 && store.n_bytes <= max_bytes, "{store:?}");
    let files = block_files_of(&own);
    let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= max_bytes && bytes == store.n_bytes, "{bytes}, {store:?}");
    assert!(own.join("notes.txt").exists() && folder.path().join("notes.txt").exists());
    // The newest are left.
    let runtime = Runtime::start(config).unwrap();
    assert_eq!(ask(&runtime, 7, prompt(29, 300)).finish.usage.cached_tokens, 288);
    assert_eq!(ask(&runtime, 7, prompt(0, 300)).finish.usage.cached_tokens, 0);
}

fn block_files_of(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|end| end == "kv")).collect()
}

#[test]
#[cfg(unix)]
fn blocks_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    let runtime = Runtime::start(with_cache(&placeholder("seed=3"), &root)).unwrap();
    ask(&runtime, 7, prompt(0, 200));
    runtime.shutdown(END);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let files = block_files(&root);
    assert!(!files.is_empty() && files.iter().all(|file| mode(file) == 0o600));
    assert_eq!(mode(&root), 0o700);
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |config: RuntimeConfig| match Runtime::start(config) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    };
    let config = with_cache(&placeholder(""), folder.path());
    let mut no_cache = config.clone();
    no_cache.engine.prefix_cache = false;
    assert!(refused(no_cache).contains("cache_dir"));
    let small = DiskCacheConfig { folder: folder.path().to_owned(), max_bytes: 1000 };
    let small = RuntimeConfig { disk_cache: Some(small), ..config.clone() };
    assert!(refused(small).contains("cache_disk_bytes is 1000"));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(refused(with_cache(&config, &file)).contains("cache_dir is"));
}

#[test]
fn real_model_candle_refuses_a_cache_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = RuntimeConfig { device: "candle".to_owned(), ..with_kv_default() };
    let Err(error) = Runtime::start(with_cache(&config, folder.path())) else {
        panic!("it started");
    };
    assert!(matches!(error, LoadError::CacheNotMovable { .. }), "{error}");
    assert!(error.to_string().contains("candle"), "{error}");
}

fn with_kv_default() -> RuntimeConfig {
    RuntimeConfig { kv_type: None, ..smollm2(KvType::F16) }
}

#[test]
fn real_model_reading_a_long_prompt_back_is_faster_than_computing_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = RuntimeConfig { kv_bytes: Some(128 * MIB), ..smollm2(KvType::F16) };
    let config = with_cache(&config, folder.path());
    for n_tokens in [1000, 3000] {
        let first = Runtime::start(config.clone()).unwrap();
        let cold = ask(&first, n_tokens.into(), prompt(1, n_tokens));
        first.shutdown(END);
        let cold_ttft = cold.finish.timings.ttft;
        // The best of three, as other programs use the disk, too.
        let warm_ttfts = [(); 3].map(|()| {
            let second = Runtime::start(config.clone()).unwrap();
            let warm = ask(&second, n_tokens.into(), prompt(1, n_tokens));
            second.shutdown(END);
            assert_eq!(warm.tokens, cold.tokens);
            warm.finish.timings.ttft
        });
        println!("{n_tokens} tokens: computed {cold_ttft:?}, from disk {warm_ttfts:?}");
        assert!(2 * *warm_ttfts.iter().min().unwrap() < cold_ttft, "{warm_ttfts:?}, {cold_ttft:?}");
    }
}
