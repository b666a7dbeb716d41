//! Compiles the BPF programs under `bpf/` with clang into `OUT_DIR`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The programs, below `bpf/`: the director's, and the traffic of its benchmarks.
const PROGRAMS: [&str; 2] = ["steer.bpf.c", "generator.bpf.c"];

/// Where distributions keep `asm/types.h` besides `/usr/include` (Debian multiarch).
fn multiarch_include() -> Option<PathBuf> {
    let arch = match env::var("HOST").ok()?.split('-').next()? {
        "i686" => "i386".to_owned(),
        other => other.to_owned(),
    };
    let folder = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    folder.join("asm/types.h").exists().then_some(folder)
}

fn compile(clang: &str, source: &Path, object: &Path) -> Result<(), String> {
    let mut command = Command::new(clang);
    command.args(["-O2", "-g", "-target", "bpf", "-Wall", "-Werror"]);
    // Paths of the building machine have no place in the object's debug information.
    command.arg(format!("-fdebug-prefix-map={}=.", source.parent().unwrap_or(source).display()));
    if let Some(folder) = multiarch_include() {
        command.arg("-I").arg(folder);
    }
    let output = command.arg("-c").arg(source).arg("-o").arg(object).output().map_err(|e| {
        format!(
            "cannot run `{clang}` ({e}), which compiles the XDP program {}. \
             Remedy: `apt-get install clang`, or name another clang in the variable CLANG.",
            source.display()
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let remedy = if said.contains("file not found") {
        "A kernel header is missing. Remedy: `apt-get install linux-libc-dev`."
    } else if said.contains("bpf") && said.contains("target") {
        "This clang cannot compile for BPF. Remedy: install clang 11 or newer, or name one in CLANG."
    } else {
        "See clang's words above."
    };
    Err(format!("{said}\n`{clang}` failed on {} ({}). {remedy}", source.display(), output.status))
}

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-changed=bpf");
    let (Some(root), Some(out)) = (env::var_os("CARGO_MANIFEST_DIR"), env::var_os("OUT_DIR"))
    else {
        println!("cargo::error=this build script is run by cargo only");
        return ExitCode::FAILURE;
    };
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let (bpf, out) = (PathBuf::from(root).join("bpf"), PathBuf::from(out));
    for program in PROGRAMS {
        let object = out.join(program).with_extension("o");
        if let Err(message) = compile(&clang, &bpf.join(program), &object) {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
