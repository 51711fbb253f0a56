//! `lastmile plan`: how much memory a model takes, and how many sequences of which length fit. Nothing is loaded.

use std::io::Write;

use lastmile::MemoryPlan;
use serde_json::{Map, Value, json};

use crate::args::PlanArgs;
use crate::calibrate::read_costs;
use crate::model::runtime_config;
use crate::outcome::{Outcome, human_bytes, print_json, say};
use crate::predict::{self, predictions};

/// The shortest context in the table; the others double it.
const FIRST_CONTEXT: usize = 512;

pub(crate) fn plan(args: &PlanArgs) -> anyhow::Result<Outcome> {
    let mut run = args.run.clone();
    // Also of a real model: what it was measured at.
    let costs = run.placeholder.placeholder_costs.take();
    let costs = costs.as_deref().map(read_costs).transpose()?;
    let config = runtime_config(&args.model, &run)?;
    let predictions = predictions(&config, costs)?;
    let max_num_seqs = config.engine.max_num_seqs as u64;
    let plan = MemoryPlan::of(&config)?;
    let longest = config.max_model_len.unwrap_or(plan.trained_len);
    let rows = if plan.has_kv() { rows(&plan, longest) } else { Vec::new() };
    if args.json {
        let mut document = as_json(&plan, &rows);
        document["predictions"] = predict::as_json(&predictions);
        print_json(&document)?;
    } else {
        print(&plan, &rows, max_num_seqs)?;
        predict::print(&predictions)?;
    }
    Ok(if plan.fits() { Outcome::Done } else { Outcome::No })
}

/// Sequences of one length that fit.
struct Row {
    context: usize,
    /// In the KV cache that is planned.
    sequences: u64,
    /// In the largest KV cache that there is room for, where that is known.
    at_most: Option<u64>,
}

fn rows(plan: &MemoryPlan, longest: usize) -> Vec<Row> {
    let doubled = std::iter::successors(Some(FIRST_CONTEXT), |len| len.checked_mul(2));
    let shorter = doubled.take_while(|len| *len < longest);
    let row = |context: usize| Row {
        context,
        sequences: plan.n_sequences(context, plan.kv_bytes),
        at_most: plan.limit.is_some().then(|| plan.n_sequences(context, plan.kv_room())),
    };
    shorter.chain([longest]).map(row).collect()
}

fn as_json(plan: &MemoryPlan, rows: &[Row]) -> Value {
    let parts = plan.parts.iter().map(|(name, bytes)| (format!("{name}_bytes"), json!(bytes)));
    let row = |row: &Row| {
        json!({
            "context": row.context, "sequences": row.sequences, "sequences_at_most": row.at_most,
        })
    };
    json!({
        "name": plan.name,
        "executor": plan.executor,
        "kv_type": plan.kv_type,
        "context_length": plan.trained_len,
        "parts": parts.collect::<Map<_, _>>(),
        "kv_cache_bytes": plan.kv_bytes,
        "kv_cache_tokens": plan.n_slots(),
        "total_bytes": plan.total_bytes(),
        "limit_bytes": plan.limit.as_ref().map(|limit| limit.bytes),
        "limit_source": plan.limit.as_ref().map(|limit| &limit.source),
        "fits": plan.fits(),
        "contexts": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn print(plan: &MemoryPlan, rows: &[Row], max_num_seqs: u64) -> anyhow::Result<()> {
    say!("{} on {}", plan.name, plan.executor);
    for (name, bytes) in &plan.parts {
        say!("  {name:<12}{:>10}", human_bytes(*bytes));
    }
    if plan.has_kv() {
        let (slots, kv) = (plan.n_slots(), human_bytes(plan.kv_bytes));
        say!("  {:<12}{kv:>10}  {slots} tokens in {}", "KV cache", plan.kv_type);
    }
    say!("  {:<12}{:>10}", "total", human_bytes(plan.total_bytes()));
    match &plan.limit {
        Some(limit) => {
            let verdict = if plan.fits() { "it fits" } else { "it does not fit" };
            let bytes = human_bytes(limit.bytes);
            say!("  {:<12}{bytes:>10}  {}: {verdict}", "limit", limit.source);
        }
        None => say!("  limit       unknown: this system does not say; give --memory-limit"),
    }
    if !plan.has_kv() {
        say!(
            "\n  an encoder: texts of at most {} tokens, nothing is kept of them",
            plan.trained_len
        );
        return Ok(());
    }
    say!("\n  context  sequences at once  with the largest KV cache that fits");
    for row in rows {
        let at_most = row.at_most.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let slots = if row.sequences > max_num_seqs { " (more than --max-num-seqs)" } else { "" };
        say!("  {:>7}  {:>17}  {at_most:>5}{slots}", row.context, row.sequences);
    }
    Ok(())
}
