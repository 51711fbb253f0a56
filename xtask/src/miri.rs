//! The tests that go through unsafe code, under Miri: the pool, columns, blocks and the arena.
//! Vector instructions are left out, as Miri has none: there the scalar kernels run.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// Arguments of `cargo miri test`, and of the tests that it builds. What measures a rate or goes through
/// all sizes takes Miri too long.
const RUNS: [(&[&str], &[&str]); 3] = [
    (&["-p", "lm-kernels", "--lib"], &["--skip", "has_a_rate", "--skip", "x86::"]),
    (
        &["-p", "lm-kernels", "--test", "it"],
        &[
            "a_part_of_a_matrix",
            "a_panel_holds",
            "too_few_activations",
            "known_blocks",
            "float_panels",
            "nothing_to_attend",
            "a_span_does_not_cross",
        ],
    ),
    (&["-p", "lm-cpu", "--lib"], &["arena"]),
];

/// Runs all of them. True when they pass.
pub(crate) fn run(root: &Path) -> anyhow::Result<bool> {
    let mut passed = true;
    for (build, tests) in RUNS {
        let mut command = Command::new("cargo");
        command.current_dir(root).args(["+nightly", "miri", "test"]).args(build);
        let status = command.arg("--").args(tests).status().context("cargo +nightly miri")?;
        passed &= status.success();
    }
    Ok(passed)
}
