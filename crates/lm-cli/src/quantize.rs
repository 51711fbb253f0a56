//! `lastmile quantize`: a model as a GGUF file of another storage type.

use std::io::Write;
use std::path::PathBuf;

use lastmile::{QuantizeError, QuantizeOptions, QuantizeSource, Quantized, StoredAs};
use lm_models::{ModelRef, RECIPES, Recipe, SHAPES, TensorType};
use serde_json::{Map, Value, json};

use crate::args::QuantizeArgs;
use crate::model::{home, locate, model_ref, random_seed};
use crate::outcome::{Outcome, WrongUse, human_bytes, print_json, say};
use crate::progress::Drawn;

pub(crate) fn quantize(args: &QuantizeArgs) -> anyhow::Result<Outcome> {
    let options = QuantizeOptions {
        recipe: Recipe::named(&args.recipe)
            .ok_or_else(|| unknown_type("--type", &args.recipe, |_| true))?,
        output_type: args.output_type.as_deref().map(output_type).transpose()?,
        overwrite: args.force,
    };
    let source = source(args)?;
    let done = lastmile::quantize(&source, &options, &args.output, &Drawn::new());
    let done = done.map_err(|error| match error {
        QuantizeError::Exists { path } => {
            WrongUse(format!("{} exists; --force replaces it", path.display())).into()
        }
        error @ (QuantizeError::OutputIsSource { .. }
        | QuantizeError::TokenizerNotReplaced { .. }) => WrongUse(error.to_string()).into(),
        other => anyhow::Error::from(other),
    })?;
    report(args, &options, &done)?;
    Ok(Outcome::Done)
}

fn source(args: &QuantizeArgs) -> anyhow::Result<QuantizeSource> {
    let tokenizer_from =
        args.tokenizer_from.as_deref().map(|model| path_of(model, args.offline)).transpose()?;
    let wrong = |why: String| Err(WrongUse(why).into());
    if !args.model.starts_with("random:") {
        if args.shape.is_some() {
            return wrong(format!("--shape is for random:SEED, but the model is {}", args.model));
        }
        let path = path_of(&args.model, args.offline)?;
        return Ok(QuantizeSource::Path { path, tokenizer_from });
    }
    let Some(seed) = random_seed(&args.model) else {
        return wrong(format!("the model is {:?}, but must be random:SEED", args.model));
    };
    let names: Vec<&str> = SHAPES.iter().map(|(name, _)| *name).collect();
    let Some(shape) = &args.shape else {
        let known = names.join(", ");
        return wrong(format!("random weights need --shape: {known}, or a config.json"));
    };
    let Some(tokenizer_from) = tokenizer_from else {
        return wrong("random weights need --tokenizer-from: a model in GGUF".to_owned());
    };
    let is_known = names.contains(&shape.as_str()) || PathBuf::from(shape).exists();
    if !is_known {
        let known = names.join(", ");
        return wrong(format!("--shape is {shape:?}, but must be {known}, or a file"));
    }
    let spec = Box::new(lm_models::shape(shape)?);
    let stem = PathBuf::from(shape).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = format!("{stem} with random weights {seed}");
    Ok(QuantizeSource::Random { name, spec, seed, tokenizer_from })
}

/// Where a model's files are; a model that is not there is fetched.
fn path_of(model: &str, offline: bool) -> anyhow::Result<PathBuf> {
    let home = home()?;
    let model = model_ref(model, &home)?;
    if matches!(model, ModelRef::Placeholder(_)) {
        return Err(WrongUse(format!("{model} has no weights")).into());
    }
    locate(&model, &home, offline)
}

fn output_type(text: &str) -> anyhow::Result<TensorType> {
    let dtype = Recipe::named(text).and_then(Recipe::single_type);
    dtype.ok_or_else(|| {
        unknown_type("--output-type", text, |recipe| recipe.single_type().is_some()).into()
    })
}

fn unknown_type(flag: &str, value: &str, known: impl Fn(&Recipe) -> bool) -> WrongUse {
    let names = RECIPES.iter().filter(|recipe| known(recipe)).map(|recipe| recipe.name);
    let names: Vec<&str> = names.collect();
    WrongUse(format!("{flag} is {value:?}, but must be one of {}", names.join(", ")))
}

fn report(args: &QuantizeArgs, options: &QuantizeOptions, done: &Quantized) -> anyhow::Result<()> {
    if args.json {
        return print_json(&json!({
            "path": args.output,
            "type": options.recipe.name,
            "parameters": done.n_params,
            "size_bytes": done.after.size_bytes,
            "bits_per_weight": done.after.bits_per_weight(),
            "tensors_by_type": by_type(&done.after),
            "before": {
                "size_bytes": done.before.size_bytes,
                "bits_per_weight": done.before.bits_per_weight(),
                "tensors_by_type": by_type(&done.before),
            },
            "requantized_tensors": done.n_requantized,
            "fallback_tensors": done.n_fallbacks,
        }));
    }
    say!("{}: {} parameters", args.output.display(), done.n_params);
    for (name, stored) in [("before", &done.before), ("after", &done.after)] {
        let (size, bits) = (human_bytes(stored.size_bytes), stored.bits_per_weight());
        let types = stored.tensor_types.iter();
        let types: Vec<_> = types.map(|t| format!("{} {}", t.n_tensors, t.dtype)).collect();
        say!("{name:<7} {size:>9}  {bits:5.2} bits per weight  {}", types.join(", "));
    }
    if done.n_fallbacks > 0 {
        let (n, meant) = (done.n_fallbacks, options.recipe.name);
        say!("{n} tensors have rows that are no whole blocks of their type in {meant}: see after");
    }
    if done.n_requantized > 0 {
        let n = done.n_requantized;
        say!("{n} tensors were quantised already: their errors add up; F16 sources are better");
    }
    Ok(())
}

fn by_type(stored: &StoredAs) -> Map<String, Value> {
    let types = stored.tensor_types.iter();
    types.map(|count| (count.dtype.as_str().to_owned(), json!(count.n_tensors))).collect()
}
