// SPDX-License-Identifier: Apache-2.0
//! Which kernels the tests run on.

use std::path::Path;
use std::process::Command;
use std::process::Stdio;

/// The kernels in the cache, fetched if need be, or why they are too few.
pub fn kernels() -> Result<Vec<String>, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/kernels.sh");
    let output =
        Command::new(script).stderr(Stdio::inherit()).output().expect("tests/vm/kernels.sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let kernels: Vec<_> =
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    match kernels.len() {
        3.. => Ok(kernels),
        _ => Err(format!("only {kernels:?} could be had; at least three kernels must run")),
    }
}
