// SPDX-License-Identifier: Apache-2.0
//! Compiles the BPF program and generates its skeleton, into OUT_DIR only.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    SkeletonBuilder::new()
        .source("src/bpf/tcpconnect.bpf.c")
        // CO-RE reads a comm as two u64: no type-based aliasing.
        .clang_args(["-Wall", "-Werror", "-mcpu=v3", "-fno-strict-aliasing"])
        .build_and_generate(out.join("tcpconnect.skel.rs"))
        .context("the BPF program does not build (is clang installed?)")?;

    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let version = Command::new(clang).arg("--version").output();
    let version = version.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let version = version.unwrap_or_default();
    println!(
        "cargo:rustc-env=CLANG_VERSION={}",
        version.lines().next().unwrap_or("clang, unknown version")
    );
    println!("cargo:rustc-env=TARGET={}", env::var("TARGET")?);
    println!("cargo:rerun-if-changed=src/bpf");
    Ok(())
}
