//! `lastmile pull`, `models`, `rm` and `inspect`.

use std::io::Write;

use lm_models::{Catalog, EncoderModel, Installed, ModelRef, PullOptions, Summary, WeightsFrom};
use serde_json::{Value, json};

use crate::fetch_args::{InspectArgs, ModelsArgs, PullArgs, RmArgs};
use crate::model::{home, model_ref};
use crate::outcome::{Outcome, WrongUse, human_bytes, print_json, say};
use crate::progress::Drawn;

pub(crate) fn pull(args: &PullArgs) -> anyhow::Result<Outcome> {
    let home = home()?;
    let model = model_ref(&args.model, &home)?;
    if matches!(model, ModelRef::Path(_) | ModelRef::Placeholder(_)) {
        let why = format!("{model} is not fetched from anywhere: it is used as it is");
        return Err(WrongUse(why).into());
    }
    let options =
        PullOptions { force: args.force, offline: args.offline, ..PullOptions::default() };
    let installed = lm_models::pull(&model, &home, &options, &Drawn::new())?;
    if args.json {
        print_json(&installed_json(&installed))?;
    } else {
        say!("{} is at {}", installed.name, installed.path.display());
    }
    Ok(Outcome::Done)
}

pub(crate) fn models(args: &ModelsArgs) -> anyhow::Result<Outcome> {
    let home = home()?;
    let catalog = Catalog::load(&home)?;
    let installed = lm_models::installed(&home);
    let find = |name: &str| installed.iter().find(|model| model.name == name);
    let cards = catalog.cards().map(|card| {
        json!({
            "name": card.name,
            "description": card.description,
            "license": card.license,
            "size_bytes": card.total_bytes(),
            "installed": find(&card.name).is_some(),
            "path": find(&card.name).map(|model| model.path.clone()),
        })
    });
    let others = installed.iter().filter(|model| catalog.get(&model.name).is_err()).map(|model| {
        json!({
            "name": model.name,
            "description": Value::Null,
            "license": Value::Null,
            "size_bytes": model.size_bytes(),
            "installed": true,
            "path": model.path,
        })
    });
    let all: Vec<Value> = cards.chain(others).collect();
    if args.json {
        print_json(&all)?;
    } else {
        for model in all {
            let text = |key: &str| model[key].as_str().unwrap_or("").to_owned();
            let size = human_bytes(model["size_bytes"].as_u64().unwrap_or(0));
            let state = if model["installed"] == true { "installed" } else { "" };
            say!("{:<26} {size:>10}  {state:<10} {}", text("name"), text("description"));
        }
    }
    Ok(Outcome::Done)
}

pub(crate) fn rm(args: &RmArgs) -> anyhow::Result<Outcome> {
    let home = home()?;
    let model = model_ref(&args.model, &home)?;
    if matches!(model, ModelRef::Path(_) | ModelRef::Placeholder(_)) {
        return Err(WrongUse(format!("{model} is not an installed model")).into());
    }
    let freed_bytes = lm_models::remove(&model, &home)?;
    say!("removed {model}: {} freed", human_bytes(freed_bytes));
    Ok(Outcome::Done)
}

pub(crate) fn inspect(args: &InspectArgs) -> anyhow::Result<Outcome> {
    let home = home()?;
    let model = model_ref(&args.model, &home)?;
    let Some(path) = lm_models::locate(&model, &home)? else {
        anyhow::bail!("{model} is not there; `lastmile pull {model}` fetches it");
    };
    if let Some(model) = lm_models::open_encoder(&path)? {
        return say_facts(args.json, encoder_json(&model)?);
    }
    let summary = Summary::of(&lm_models::open(&path, WeightsFrom::File)?)?;
    say_facts(args.json, summary_json(&summary))
}

fn say_facts(as_json: bool, document: Value) -> anyhow::Result<Outcome> {
    if as_json {
        print_json(&document)?;
    } else if let Value::Object(facts) = document {
        for (name, value) in facts {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            say!("{name:<24} {value}");
        }
    }
    Ok(Outcome::Done)
}

fn encoder_json(model: &EncoderModel) -> anyhow::Result<Value> {
    let (spec, (types, n_params)) = (&model.spec, model.tensor_types()?);
    let types = types.iter().map(|(dtype, n)| (dtype.as_str().to_owned(), json!(n)));
    Ok(json!({
        "name": model.name,
        "architecture": spec.family.as_str(),
        "kind": "encoder",
        "parameters": n_params,
        "size_bytes": model.size_bytes(),
        "tensors_by_type": types.collect::<serde_json::Map<_, _>>(),
        "tokenizer": "tokenizer.json",
        "vocab_size": spec.vocab_size,
        "n_layers": spec.n_layers,
        "hidden_size": spec.hidden_size,
        "n_heads": spec.n_heads,
        "intermediate_size": spec.intermediate_size,
        "context_length": spec.max_len,
        "positions": spec.n_positions - spec.first_position,
        "pooling": format!("{:?}", spec.pooling).to_lowercase(),
        "labels": spec.head.as_ref().map(|head| &head.labels),
    }))
}

fn installed_json(installed: &Installed) -> Value {
    let files = installed.files.iter().map(
        |file| json!({ "name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256 }),
    );
    json!({
        "name": installed.name,
        "path": installed.path,
        "files": files.collect::<Vec<_>>(),
    })
}

fn summary_json(summary: &Summary) -> Value {
    let spec = &summary.spec;
    let types = summary.tensor_types.iter();
    let types = types.map(|count| (count.dtype.as_str().to_owned(), json!(count.n_tensors)));
    json!({
        "name": summary.name,
        "architecture": summary.architecture,
        "parameters": summary.n_params,
        "size_bytes": summary.size_bytes,
        "tensors_by_type": types.collect::<serde_json::Map<_, _>>(),
        "tokenizer": summary.tokenizer,
        "vocab_size": spec.vocab_size,
        "has_chat_template": summary.has_chat_template,
        "bos": summary.bos,
        "eos": summary.eos,
        "n_layers": spec.n_layers,
        "hidden_size": spec.hidden_size,
        "n_heads": spec.n_heads,
        "n_kv_heads": spec.n_kv_heads,
        "head_dim": spec.head_dim,
        "intermediate_size": spec.intermediate_size,
        "context_length": spec.max_position_embeddings,
        "kv_bytes_per_token_f16": spec.kv_bytes_per_token(2),
    })
}
