// SPDX-License-Identifier: Apache-2.0
//! Builds the client of musl's resolver: tests/musl.c, linked statically.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

pub fn build(to: &Path) -> PathBuf {
    let program = to.join("musl");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/musl.c");
    let mut command = Command::new("musl-gcc");
    let status = command.args(["-static", "-o"]).arg(&program).arg(source).status();
    assert!(status.expect("musl-gcc is installed: make deps-test").success());
    program
}
