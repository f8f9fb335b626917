// SPDX-License-Identifier: Apache-2.0
//! Compiles the BPF programs and generates their skeletons, into OUT_DIR only.

#[path = "src/kernel/btf_types.rs"]
mod btf_types;
mod build_needs;

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_cargo::SkeletonBuilder;
use object::build::elf::Builder;
use object::build::elf::SectionData;
use object::elf::SHT_STRTAB;

/// clang leaves a symbol for each basic block, and libbpf goes through all symbols
/// once for each section: a tenth of the tracer's start. Lines of source, which only the
/// verifier's log shows, are two fifths of the object.
fn slim(object: &Path) -> Result<()> {
    let data = fs::read(object)?;
    let mut elf = Builder::read(&*data)?;
    for symbol in &mut elf.symbols {
        symbol.delete = symbol.name.starts_with(b"LBB");
    }
    for section in &mut elf.sections {
        if section.name == b".BTF.ext".as_slice().into()
            && let SectionData::Data(data) = &mut section.data
        {
            *data = without_lines(data)?.into();
        }
    }
    // libbpf's linker keeps the names of sections and symbols in one section.
    let names = elf.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut kept = Vec::new();
    elf.write(&mut kept)?;
    fs::write(object, kept)?;
    Ok(())
}

/// Of a .BTF.ext section (struct btf_ext_header, linux/btf.h): its header has the offset, from
/// its own end, and the length of each part.
fn without_lines(data: &[u8]) -> Result<Vec<u8>> {
    const HEADER_LEN: usize = 4;
    const LINES: usize = 16;
    const RELOCATIONS: usize = 24;
    let number = |at| btf_types::word(data, at).context(".BTF.ext is too short");
    let (at, len) = (number(LINES)?, number(LINES + 4)?);
    let start = usize::try_from(number(HEADER_LEN)? + at)?;
    let mut rest = data.to_vec();
    rest.drain(start..start + usize::try_from(len)?);
    rest[LINES + 4..][..4].fill(0);
    rest[RELOCATIONS..][..4].copy_from_slice(&(number(RELOCATIONS)? - len).to_ne_bytes());
    Ok(rest)
}

fn build(name: &str, out: &Path) -> Result<()> {
    let object = out.join(name).with_extension("o");
    let mut skeleton = SkeletonBuilder::new();
    skeleton
        .source(format!("src/bpf/{name}.bpf.c"))
        .obj(&object)
        // CO-RE reads a comm as two u64: no type-based aliasing.
        .clang_args(["-Wall", "-Werror", "-mcpu=v3", "-fno-strict-aliasing"])
        .build()
        .context("the BPF program does not build (is clang installed?)")?;
    slim(&object).context("failed to slim the BPF program")?;
    skeleton.generate(out.join(name).with_extension("skel.rs"))?;
    Ok(())
}

fn main() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    build("tcpconnect", &out)?;
    let needs = build_needs::source(&out.join("tcpconnect.o"));
    let needs = needs.context("the relocations of the BPF programs cannot be read")?;
    fs::write(out.join("needs.rs"), needs)?;
    build("files", &out)?;

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
