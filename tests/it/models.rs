//! What `serve` makes of several models, and `--offline`.

use crate::program::Home;

#[track_caller]
fn check(args: &[&str], status: i32, parts: &[&str]) {
    Home::new().run(args).refused(status, parts);
}

#[test]
fn names_and_aliases_that_cannot_be_are_wrong_use() {
    let two = ["serve", "--port", "0", "--model", "placeholder", "--model", "placeholder:seed=2"];
    check(&two, 2, &["'placeholder'", "NAME=MODEL"]);
    let serve = ["serve", "--port", "0", "--model", "a=placeholder"];
    let with = |more: &[&'static str]| [&serve[..], more].concat();
    check(&with(&["--alias", "fast"]), 2, &["\"fast\"", "ALIAS=NAME"]);
    check(&with(&["--alias", "fast=b"]), 2, &["fast=b", "a"]);
    check(&with(&["--alias", "a=a"]), 2, &["'a'"]);
    check(&with(&["--model-idle-timeout", "10"]), 2, &["10", "10m"]);
    check(&with(&["--max-loaded-models", "0"]), 2, &["0", "--max-loaded-models"]);
    check(&with(&["--model", "b=placeholder:bad=1"]), 2, &["bad"]);
}

#[test]
fn offline_names_what_is_missing() {
    check(&["pull", "gemma3-270m", "--offline"], 3, &["gemma3-270m", "--offline"]);
    check(&["pull", "hf:org/repo", "--offline"], 3, &["hf:org/repo", "--offline"]);
    check(&["pull", "gemma3-270m", "--offline", "--force"], 2, &["--offline", "--force"]);
    let serve = ["serve", "--port", "0", "--offline", "--model", "a=placeholder"];
    let missing = [&serve[..], &["--model", "b=hf:org/repo"]].concat();
    check(&missing, 3, &["hf:org/repo", "--offline"]);
    check(&["serve", "--port", "0", "--model", "b=./absent.gguf"], 3, &["absent.gguf"]);
}
