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
use anyhow::ensure;
use libbpf_cargo::SkeletonBuilder;
use miniz_oxide::deflate::compress_to_vec_zlib;
use object::Object as _;
use object::ObjectSymbol as _;
use object::SymbolKind;
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

/// Compiled, with no skeleton yet.
fn compile(name: &str, object: &Path, define: Option<String>) -> Result<SkeletonBuilder> {
    // The names of source files are in the object, and are to be the same everywhere.
    let names = format!("-ffile-prefix-map={}=.", env::var("CARGO_MANIFEST_DIR")?);
    let flags = ["-Wall".to_owned(), "-Werror".to_owned(), names];
    let mut skeleton = SkeletonBuilder::new();
    skeleton
        .source(format!("src/bpf/{name}.bpf.c"))
        .obj(object)
        // At once: each call takes the place of the one before.
        .clang_args(flags.into_iter().chain(define))
        .build()
        .context("the BPF program does not build (is clang installed?)")?;
    slim(object).context("failed to slim the BPF program")?;
    Ok(skeleton)
}

/// The parts of src/bpf/tcpconnect.bpf.c, as src/kernel/part.rs has them: the one that most runs
/// need as it is, the others compressed. All have the constants and counters in the places that the
/// skeleton was generated for.
fn build_parts(out: &Path, whole: &Path) -> Result<()> {
    let places = variables(whole)?;
    for name in ["table", "fields", "fentry", "kprobe", "sockops"] {
        let object = out.join(name).with_extension("o");
        compile("tcpconnect", &object, Some(format!("-DPARTS={}", name.to_uppercase())))?;
        ensure!(variables(&object)? == places, "the variables of {name}.o are in other places");
        if name != "table" {
            let data = compress_to_vec_zlib(&fs::read(&object)?, 10);
            fs::write(object.with_extension("o.z"), data)?;
        }
    }
    Ok(())
}

/// The constants and counters: name, address and size of each.
fn variables(object: &Path) -> Result<Vec<(String, u64, u64)>> {
    let data = fs::read(object)?;
    let elf = object::File::parse(&*data)?;
    let variables = elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Data);
    let place = |symbol: object::Symbol<'_, '_>| {
        Ok((symbol.name()?.to_owned(), symbol.address(), symbol.size()))
    };
    let mut places = variables.map(place).collect::<Result<Vec<_>>>()?;
    places.sort();
    Ok(places)
}

/// The skeleton has one object in it; it is to open the one that a run chooses.
fn without_data(skeleton: &Path) -> Result<()> {
    let text = fs::read_to_string(skeleton)?;
    let (kept, data) = text
        .split_once("#[unsafe(link_section = \".bpf.objs\")]")
        .context("the skeleton has no object")?;
    ensure!(
        data.trim_start().starts_with("static DATA: "),
        "the skeleton's object has another name"
    );
    fs::write(skeleton, format!("{kept}use crate::kernel::part::DATA;\n}}\n"))?;
    Ok(())
}

/// What --version says.
fn tell_facts() -> Result<()> {
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let version = Command::new(clang).arg("--version").output();
    let version = version.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let version = version.unwrap_or_default();
    let version = version.lines().next().unwrap_or("clang, unknown version");
    println!("cargo:rustc-env=CLANG_VERSION={version}");
    // Packages have it. If cargo looked for it, each commit would compile all anew.
    println!("cargo:rerun-if-env-changed=TCPCONNECT_COMMIT");
    let commit = env::var("TCPCONNECT_COMMIT").ok().filter(|commit| !commit.is_empty());
    println!("cargo:rustc-env=COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    let has = |feature: &&str| env::var_os(format!("CARGO_FEATURE_{}", feature.to_uppercase()));
    let features = ["parquet", "static"].iter().filter(|feature| has(feature).is_some());
    let features: Vec<_> = features.copied().collect();
    println!("cargo:rustc-env=FEATURES={}", features.join(","));
    let is_static =
        env::var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|all| all.contains("crt-static"));
    let linked = if is_static { "static" } else { "dynamic" };
    println!("cargo:rustc-env=TARGET={}, {linked}", env::var("TARGET")?);
    Ok(())
}

/// What lies where in the program. A release alone has panic = "abort".
fn arrange() -> Result<()> {
    let is_release = env::var("PROFILE")? == "release";
    let sources = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("src");
    let link = |argument: String| println!("cargo:rustc-link-arg-bins=-Wl,{argument}");
    link(format!("-T,{}", sources.join("order.ld").display()));
    if is_release {
        link(format!("-T,{}", sources.join("abort.ld").display()));
        link("--no-eh-frame-hdr".to_owned());
    }
    println!("cargo:rerun-if-changed=src/order.ld");
    println!("cargo:rerun-if-changed=src/abort.ld");
    Ok(())
}

fn main() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let [whole, files] = ["tcpconnect", "files"].map(|name| out.join(name).with_extension("o"));
    let skeleton = whole.with_extension("skel.rs");
    compile("tcpconnect", &whole, None)?.reference_obj(true).generate(&skeleton)?;
    without_data(&skeleton)?;
    build_parts(&out, &whole)?;
    let needs = build_needs::source(&whole);
    let needs = needs.context("the relocations of the BPF programs cannot be read")?;
    fs::write(out.join("needs.rs"), needs)?;
    compile("files", &files, None)?.generate(files.with_extension("skel.rs"))?;

    tell_facts()?;
    arrange()?;
    println!("cargo:rerun-if-changed=src/bpf");
    Ok(())
}
