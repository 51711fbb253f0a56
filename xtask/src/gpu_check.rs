//! What runs on GPUs is compiled, as none is at hand: CUDA by nvcc from Python packages, Metal as far as a type check goes.
//! In a target directory of its own, so that the normal build is not made anew.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// The compiler and the headers of CUDA 13.0, which is what [`CUDA_VERSION`] says.
const CUDA_PACKAGES: [&str; 8] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-nvvm==13.0.88",
    "nvidia-curand==10.4.0.35",
    "nvidia-cublas==13.1.0.3",
    "nvidia-cuda-nvrtc==13.0.88",
];
/// As cudarc writes it.
const CUDA_VERSION: &str = "13000";
/// Compute capability 9.0.
const CUDA_COMPUTE_CAP: &str = "90";
const METAL_TARGET: &str = "aarch64-apple-darwin";
/// The executor, and what chooses its device.
const CRATES: [&str; 4] = ["-p", "lm-candle", "-p", "lastmile"];

/// Checks both. True when they pass.
pub(crate) fn run(root: &Path) -> anyhow::Result<bool> {
    let dir = root.join("target/gpu-check");
    let mut passed = true;
    let mut left_out = vec!["that either runs: no GPU is used".to_owned()];
    if cfg!(target_os = "linux") {
        passed &= told("CUDA", cuda(root, &dir)?);
        left_out
            .push(format!("CUDA: linking, and other compute capabilities than {CUDA_COMPUTE_CAP}"));
    } else {
        left_out
            .push("CUDA: the packages of its compiler that are used here are for Linux".to_owned());
    }
    passed &= told("Metal", metal(root, &dir)?);
    left_out.push("Metal: linking, and its shaders, which the device's driver compiles".to_owned());
    if !cfg!(target_os = "macos") {
        left_out.push(format!(
            "Metal: C code of dependencies: there is no compiler for {METAL_TARGET}"
        ));
    }
    for what in left_out {
        println!("gpu-check: not checked: {what}");
    }
    Ok(passed)
}

fn told(what: &str, passed: bool) -> bool {
    println!("gpu-check: {what}: {}", if passed { "passed" } else { "FAILED" });
    passed
}

/// Kernels by nvcc, which takes about twenty minutes the first time, and a check of the Rust code.
fn cuda(root: &Path, dir: &Path) -> anyhow::Result<bool> {
    let mut check = check(root, dir);
    let home = cuda_home(dir)?;
    check.args(["--features", "lastmile/cuda"]);
    // Another compiler that is installed would go before the one at home.
    check.env("NVCC", home.join("bin/nvcc")).env("CUDA_HOME", home);
    check.env("CUDARC_CUDA_VERSION", CUDA_VERSION).env("CUDA_COMPUTE_CAP", CUDA_COMPUTE_CAP);
    Ok(check.status().context("cargo check")?.success())
}

/// The folder of the packages, which are installed where they are not.
fn cuda_home(dir: &Path) -> anyhow::Result<PathBuf> {
    let venv = dir.join("venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        must(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    must(pip.args(CUDA_PACKAGES))?;
    let asked = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let output = Command::new(&python).args(["-c", asked]).output().context("python")?;
    let packages = String::from_utf8(output.stdout).context("the path of the packages")?;
    let home = Path::new(packages.trim()).join("nvidia/cu13");
    for file in ["bin/nvcc", "include/cuda.h"] {
        ensure!(home.join(file).is_file(), "the packages brought no {}", home.join(file).display());
    }
    Ok(home)
}

fn metal(root: &Path, dir: &Path) -> anyhow::Result<bool> {
    must(Command::new("rustup").current_dir(root).args(["target", "add", METAL_TARGET]))?;
    let mut check = check(root, dir);
    check.args(["--features", "lastmile/metal", "--target", METAL_TARGET]);
    if !cfg!(target_os = "macos") {
        for tool in ["CC", "CXX", "AR"] {
            let name = format!("{tool}_{}", METAL_TARGET.replace('-', "_"));
            check.env(name, root.join("xtask/no-cc.sh"));
        }
    }
    Ok(check.status().context("cargo check")?.success())
}

fn check(root: &Path, dir: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["check", "--locked"]).args(CRATES);
    command.env("CARGO_TARGET_DIR", dir);
    command
}

fn must(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| name.clone())?;
    if !status.success() {
        bail!("{name} failed: {status}");
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// What the `cc` crate asks of a compiler and of an archiver.
    #[test]
    fn the_stub_is_taken_for_a_compiler() {
        let stub = Path::new(env!("CARGO_MANIFEST_DIR")).join("no-cc.sh");
        let ask = |args: &[&str]| {
            let output = Command::new(&stub).args(args).output().unwrap();
            (output.status.success(), String::from_utf8(output.stdout).unwrap())
        };
        assert_eq!(ask(&["-?"]), (false, String::new()));
        assert_eq!(ask(&["-E", "family.c"]), (true, "\"clang\"\n".to_owned()));
        assert_eq!(ask(&["-O3", "-c", "a.c", "-o", "a.o"]), (true, String::new()));
        assert_eq!(ask(&["cqD", "liba.a", "a.o"]), (true, String::new()));
    }
}
