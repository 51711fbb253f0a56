//! Verbs, flags and exit status: 0 done, 1 the answer is no, 2 wrong use, 3 could not.

use crate::program::{Home, ran};

#[track_caller]
fn check(args: &[&str], status: i32, parts: &[&str]) {
    Home::new().run(args).refused(status, parts);
}

#[test]
fn wrong_use_ends_with_two_and_names_what_was_wrong() {
    check(&["sing"], 2, &["sing"]);
    check(&[], 2, &["Usage"]);
    check(&["serve", "--loud"], 2, &["--loud"]);
    check(&["serve", "--port", "65536"], 2, &["65536", "--port"]);
    check(&["serve", "--model", "placeholder:bad=1"], 2, &["bad"]);
    check(&["serve", "--model", "placeholder:seed=one"], 2, &["seed", "one"]);
    check(&["run", "hello", "--model", "no such model"], 2, &["no such model"]);
    let home = Home::new();
    let model = home.write("model.gguf", "");
    let model = model.to_str().unwrap();
    check(&["run", "hello", "--model", model, "--weights", "warm"], 2, &["warm"]);
    check(&["pull", "placeholder"], 2, &["placeholder"]);
    check(&["rm", "placeholder"], 2, &["placeholder"]);
}

#[test]
fn what_is_not_there_ends_with_three_and_is_named() {
    check(&["inspect", "./absent.gguf"], 3, &["absent.gguf"]);
    check(&["rm", "gemma3-270m"], 3, &["gemma3-270m", "not installed"]);
    check(&["run", "hello", "--offline"], 3, &["smollm2-135m-instruct", "--offline"]);
    check(&["run", "hello", "--model", "./absent.gguf"], 3, &["absent.gguf"]);
    check(&["data", "log", "mails"], 3, &["mails"]);
}

#[test]
fn help_fits_a_screen_and_ends_with_an_example() {
    for verb in [
        "serve",
        "run",
        "chat",
        "pull",
        "models",
        "rm",
        "inspect",
        "plan",
        "bench",
        "quantize",
        "keys",
        "doctor",
        "failures",
        "review",
        "fix",
        "eval",
        "learn",
        "confidence",
        "tokenize",
    ] {
        let ran = Home::new().run([verb, "-h"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        assert!(ran.stdout.lines().count() <= 50, "{verb}: {}", ran.stdout.lines().count());
        let last = ran.stdout.lines().last().unwrap();
        assert!(last.contains(&format!("lastmile {verb}")), "{verb}: {last}");
    }
}

#[test]
fn the_catalog_is_one_json_document() {
    let models = Home::new().run(["models", "--json"]).json();
    let names: Vec<_> = models.as_array().unwrap().iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["all-minilm-l6-v2", "gemma3-270m", "smollm2-135m-instruct"]);
    assert!(models.as_array().unwrap().iter().all(|model| model["installed"] == false));
}

#[test]
fn the_placeholder_answers_a_prompt_the_same_way_twice() {
    let home = Home::new();
    let run =
        || home.run(["run", "hello", "--model", "placeholder", "--json", "--seed", "5"]).json();
    let first = run();
    assert!(!first["text"].as_str().unwrap().is_empty(), "{first}");
    assert_eq!(first["text"], run()["text"]);
}

#[test]
fn the_doctor_says_which_instruction_set_is_used_and_what_caps_it() {
    let home = Home::new();
    let isa = |cap: &str| {
        let found = ran(home.command(["doctor", "--json"]).env("LASTMILE_ISA", cap)).json();
        found["isa"].clone()
    };
    let scalar = isa("scalar");
    assert_eq!((&scalar["in_use"], &scalar["cap"]), (&"scalar".into(), &"scalar".into()));
    let unknown = isa("sse9");
    assert!(unknown["in_use"].is_null() && unknown["cap"] == "sse9", "{unknown}");
    let free = home.run(["doctor", "--json"]).json()["isa"].clone();
    let available = free["available"].as_array().unwrap();
    assert!(free["cap"].is_null() && free["in_use"] == *available.last().unwrap(), "{free}");
    let page = ran(home.command(["doctor"]).env("LASTMILE_ISA", "scalar"));
    let line = page.stdout.lines().find(|line| line.starts_with("isa ")).unwrap();
    assert!(
        line.contains("scalar of scalar") && line.ends_with("LASTMILE_ISA is scalar"),
        "{line}"
    );
}

#[test]
fn the_benches_report_every_case_as_one_json_document() {
    let home = Home::new();
    let sizes = ["--prompt-tokens", "40", "--context", "16", "--steps", "4", "--repeat", "2"];
    let args = ["bench", "engine", "placeholder", "--json", "--batch", "1,3"];
    let found = home.run([&args[..], &sizes].concat()).json();
    let cases: Vec<_> = found["cases"].as_array().unwrap().iter().collect();
    let of = |key: &str| cases.iter().map(|case| case[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("case"), ["prompt", "decode", "decode", "mixed"]);
    assert_eq!(of("tokens"), [40, 4, 12, 48]);
    assert!(cases.iter().all(|case| case["tokens_per_s_best"].as_f64().unwrap() > 0.0), "{found}");
    assert!(found["machine"].is_null() && cases[0]["roofline"].is_null(), "{found}");

    let found = home.run(["bench", "loop", "placeholder", "--requests", "9", "--json"]).json();
    assert_eq!((&found["requests"], &found["output_tokens"]), (&9.into(), &(9 * 64).into()));

    check(&["bench", "engine", "placeholder", "--steps", "0"], 2, &["steps", "0"]);
    check(&["bench", "engine", "placeholder", "--context", "9000"], 2, &["9064", "8192"]);
    check(&["bench", "loop", "placeholder", "--requests", "0"], 2, &["--requests"]);
}
