// SPDX-License-Identifier: Apache-2.0
//! Lists the types and members of the kernel's that each program reads, as its relocations say.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use object::Object as _;
use object::ObjectSection as _;
use object::ObjectSymbol as _;
use object::RelocationTarget;
use object::SymbolKind;

use crate::btf_types::ARRAY;
use crate::btf_types::HEAD_LEN;
use crate::btf_types::Head;
use crate::btf_types::MEMBER_LEN;
use crate::btf_types::word;

/// Names for the path of a member, joined; the type's own first.
type Need = String;

struct Types<'a> {
    /// Where the record of each is; nothing is at 0, which is void.
    at: Vec<usize>,
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Types<'a> {
    fn read(btf: &'a [u8]) -> Result<Self> {
        let field = |at| word(btf, at).map(|word| word as usize).context(".BTF is too short");
        let part = |at| {
            let start = field(4)? + field(at)?;
            btf.get(start..start + field(at + 4)?).context(".BTF is too short")
        };
        let (types, strings) = (part(8)?, part(16)?);
        let (mut at, mut next) = (vec![0], 0);
        while next < types.len() {
            at.push(next);
            let head = Head::read(&types[next..]).context(".BTF ends in a record")?;
            next += head.len().context("a type of an unknown kind")?;
        }
        Ok(Types { at, types, strings })
    }

    fn text(&self, at: u32) -> Result<&'a str> {
        let rest = self.strings.get(at as usize..).context("a name beyond the strings")?;
        let end = rest.iter().position(|&b| b == 0).context("a name without an end")?;
        Ok(std::str::from_utf8(&rest[..end])?)
    }

    /// The record of a type, behind its other names.
    fn record(&self, mut id: u32) -> Result<(Head, &'a [u8])> {
        loop {
            let at = *self.at.get(id as usize).context("a type that is not there")?;
            let head = Head::read(&self.types[at..]).context("a record that is not whole")?;
            if !head.is_other_type() {
                return Ok((head, &self.types[at + HEAD_LEN..]));
            }
            id = head.size_or_type;
        }
    }

    /// What an access like 0:3:1 reads of a type, by names.
    fn need(&self, id: u32, access: &str) -> Result<Need> {
        let (mut head, mut rest) = self.record(id)?;
        ensure!(head.is_composite(), "a relocation against what is no struct");
        // A flavor is the programs' own.
        let name = self.text(head.name)?;
        let mut need = name.split("___").next().unwrap_or_default().to_owned();
        for index in access.split(':').skip(1) {
            let index: usize = index.parse()?;
            let next = if head.kind() == ARRAY {
                word(rest, 0)
            } else {
                ensure!(index < head.count(), "a member that is not there");
                let member = &rest[index * MEMBER_LEN..];
                let name = self.text(word(member, 0).context("a member")?)?;
                if !name.is_empty() {
                    need.push('.');
                    need.push_str(name);
                }
                word(member, 4)
            };
            (head, rest) = self.record(next.context("a type without its end")?)?;
        }
        Ok(need)
    }
}

/// Relocations against the kernel's types: section, offset of the instruction, what is read.
fn relocations(elf: &object::File<'_>) -> Result<Vec<(String, u64, Need)>> {
    let data = |name| elf.section_by_name(name).context(name)?.data().context(name);
    let (btf, ext) = (data(".BTF")?, data(".BTF.ext")?);
    let types = Types::read(btf)?;
    let field = |at| word(ext, at).map(|word| word as usize).context(".BTF.ext is too short");
    let start = field(4)? + field(24)?;
    let relocations = ext.get(start..start + field(28)?).context(".BTF.ext is too short")?;
    let number = |at| word(relocations, at).context("relocations that are not whole");
    ensure!(number(0)? == 16, "relocations of another size");
    let (mut found, mut at) = (Vec::new(), 4);
    while at < relocations.len() {
        let section = types.text(number(at)?)?;
        let count = number(at + 4)?;
        at += 8;
        for _ in 0..count {
            let [insn, id, access, kind] = [0, 4, 8, 12].map(|field| number(at + field));
            // BPF_CORE_FIELD_* and BPF_CORE_TYPE_*, but for enums: those are not handed on.
            if kind? > 9 {
                bail!("a relocation against an enum");
            }
            found.push((section.to_owned(), insn?.into(), types.need(id?, types.text(access?)?)?));
            at += 16;
        }
    }
    Ok(found)
}

/// Where programs refer to functions: all of these are in one section.
fn callers(elf: &object::File<'_>) -> Result<Vec<(String, u64)>> {
    let text = elf.section_by_name(".text").map(|section| section.index());
    let mut callers = Vec::new();
    for section in elf.sections() {
        for (at, relocation) in section.relocations() {
            let RelocationTarget::Symbol(symbol) = relocation.target() else { continue };
            let symbol = elf.symbol_by_index(symbol)?;
            if text.is_some() && symbol.section_index() == text {
                callers.push((section.name()?.to_owned(), at));
            }
        }
    }
    Ok(callers)
}

/// Rust source of what a program of this section attaches to, if that is a type of the kernel's;
/// SEC_ATTACH_BTF in libbpf.c, and find_attach_btf_id() there.
fn target(section: &str) -> String {
    match section.split_once('/') {
        Some(("fentry" | "fexit", name)) => format!("Some(({name:?}, Sort::Function))"),
        Some(("tp_btf", name)) => format!("Some((\"btf_trace_{name}\", Sort::Typedef))"),
        Some(("iter", name)) => format!("Some((\"bpf_iter_{name}\", Sort::Function))"),
        _ => "None".to_owned(),
    }
}

/// Rust source of what each program reads.
pub fn source(object: &Path) -> Result<String> {
    let data = fs::read(object)?;
    let elf = object::File::parse(&*data)?;
    let (mut programs, mut targets) = (BTreeMap::new(), BTreeMap::new());
    let mut places = Vec::new();
    for symbol in elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let Some(index) = symbol.section_index().filter(|_| symbol.size() > 0) else { continue };
        let section = elf.section_by_index(index)?.name()?.to_owned();
        let range = symbol.address()..symbol.address() + symbol.size();
        places.push((section.clone(), range, symbol.name()?.to_owned()));
        if section != ".text" {
            programs.insert(symbol.name()?.to_owned(), BTreeSet::new());
            targets.insert(symbol.name()?.to_owned(), target(&section));
        }
    }
    let callers = callers(&elf)?;
    for (section, insn, need) in relocations(&elf)? {
        let calls = |(own, at): &&(String, u64)| {
            places.iter().find(|(section, range, _)| section == own && range.contains(at))
        };
        let here = (section, insn);
        let of: Vec<_> = match here.0 == ".text" {
            true => callers.iter().filter_map(|caller| calls(&caller)).collect(),
            false => calls(&&here).into_iter().collect(),
        };
        ensure!(!of.is_empty(), "a relocation outside of all programs");
        for (.., name) in of {
            let needs = programs.get_mut(name).context("a function that calls another")?;
            needs.insert(need.clone());
        }
    }
    let all: BTreeSet<_> = programs.values().flatten().collect();
    let all: Vec<_> = all.into_iter().collect();
    let mut source = format!("const NEEDS: [&str; {}] = {all:?};\n", all.len());
    writeln!(source, "const PROGRAMS: [Program; {}] = [", programs.len())?;
    for (name, needs) in &programs {
        let needs: Vec<_> = needs.iter().filter_map(|need| all.binary_search(&need).ok()).collect();
        let target = &targets[name];
        writeln!(source, "Program {{ name: {name:?}, needs: &{needs:?}, target: {target} }},")?;
    }
    source.push_str("];\n");
    Ok(source)
}
