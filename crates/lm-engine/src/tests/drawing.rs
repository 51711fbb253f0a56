//! Rows that several threads draw from.

use lm_types::PromptReport;

use super::*;

/// Fails one answer at its fifth token, and lets the others be.
#[derive(Debug)]
struct Panics;

impl LogitProcessor for Panics {
    fn name(&self) -> &str {
        "panics"
    }

    fn process(&self, _logits: &mut [f32], _prompt: &[TokenId], generated: &[TokenId]) {
        assert!(generated.len() != 5, "this processor is broken");
    }
}

#[test]
fn a_processor_that_panics_ends_its_own_answers_alone() {
    let mut rig = Rig::new("");
    let broken = || -> Vec<Arc<dyn LogitProcessor>> { vec![Arc::new(Panics)] };
    let mut readers = Vec::new();
    for i in 0..12 {
        let processors = if i % 3 == 0 { broken() } else { Vec::new() };
        readers.push(rig.add_processed(prompt(i), None, processors, |request| {
            request.sampling.temperature = 1.0;
        }));
    }
    rig.run();
    for (i, reader) in readers.iter().enumerate() {
        let (_, end) = answer(reader);
        match i % 3 {
            0 => assert!(format!("{end:?}").contains("this processor is broken"), "{i}: {end:?}"),
            _ => assert_eq!(end, Ok(FinishReason::Length), "{i}"),
        }
    }
    rig.engine.scheduler.check_integrity().unwrap();
}

#[test]
fn prompts_are_scored_together_as_alone() {
    let scored = |rig: &mut Rig, all: std::ops::Range<u32>| {
        let readers: Vec<_> = all
            .map(|i| {
                rig.add(prompt(i), |request| {
                    request.sampling.temperature = 1.0;
                    request.sampling.seed = u64::from(i);
                    request.report = PromptReport { tokens: true, logprobs: Some(2) };
                    request.stop.max_tokens = Some(20);
                })
            })
            .collect();
        rig.run();
        let told = |reader: &OutputReader| {
            let mut told = String::new();
            while let Some(event) = reader.next_blocking() {
                match event {
                    GenerateEvent::Prompt { .. } => told += &format!("{event:?}"),
                    GenerateEvent::Delta { text, .. } => told += &text,
                    GenerateEvent::Finished(finish) => told += &format!("{:?}", finish.reason),
                    GenerateEvent::Failed(error) => panic!("{error}"),
                }
            }
            told
        };
        readers.iter().map(told).collect::<Vec<_>>()
    };
    let mut rig = Rig::new("");
    let together = scored(&mut rig, 0..7);
    let alone: Vec<String> = (0..7).flat_map(|i| scored(&mut Rig::new(""), i..i + 1)).collect();
    assert_eq!(together, alone);
    assert!(together.iter().all(|told| told.contains("logprob")), "{}", together[0]);
}
