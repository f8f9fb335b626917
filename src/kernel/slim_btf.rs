// SPDX-License-Identifier: Apache-2.0
//! The few types of the kernel's BTF that the programs' relocations ask for, as BTF of their own.
//!
//! libbpf reads and checks all of the kernel's types, some 130,000, and looks through them for
//! each of these, and for what a program is attached to: that was half of a start. Here reading
//! ends where the last of them has been found. Where anything is not as expected there is no such
//! file, and libbpf reads the kernel's.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use rustix::fs::memfd_create;
use rustix::process::Resource;
use rustix::process::getrlimit;

use super::btf::KERNEL_BTF;
use super::btf_types::ARRAY;
use super::btf_types::ENUM;
use super::btf_types::ENUM64;
use super::btf_types::HEAD_LEN;
use super::btf_types::Head;
use super::btf_types::INT;
use super::btf_types::MEMBER_LEN;
use super::btf_types::PTR;
use super::btf_types::word;
use super::kernel_btf::HEADER_LEN;
use super::kernel_btf::Kernel;
use super::kernel_btf::MAGIC;
use super::kernel_btf::Sort;

/// What a program of src/bpf reads, and what it is attached to, if that is a type.
struct Program {
    name: &'static str,
    /// Places in `NEEDS`.
    needs: &'static [u16],
    target: Option<Target>,
}

/// A type by its name. That of a tracepoint is a typedef.
type Target = (&'static str, Sort);

include!(concat!(env!("OUT_DIR"), "/needs.rs"));

const INT_ID: u32 = 1;

/// A member, and what is read of it in turn; of a root: a type.
#[derive(Debug, Default)]
struct Tree<'a>(BTreeMap<&'a str, Tree<'a>>);

impl<'a> Tree<'a> {
    fn add(&mut self, path: &'a str) {
        path.split('.').fold(self, |tree, name| tree.0.entry(name).or_default());
    }
}

/// What these programs read of the kernel's types.
fn needs(programs: &[&str]) -> Tree<'static> {
    let mut tree = Tree::default();
    for program in PROGRAMS.iter().filter(|program| programs.contains(&program.name)) {
        let paths = program.needs.iter().map(|&need| NEEDS[usize::from(need)]);
        paths.for_each(|path| tree.add(path));
    }
    tree
}

/// What these programs are attached to, of those that are attached to a type.
fn targets(programs: &[&str]) -> Vec<(&'static str, Target)> {
    let programs = PROGRAMS.iter().filter(|program| programs.contains(&program.name));
    programs.filter_map(|program| Some((program.name, program.target?))).collect()
}

/// A file of BTF with what these programs read.
pub struct SlimBtf {
    file: File,
    /// Of what the programs are attached to, by their names; `None` if this BTF does not have all,
    /// as where a module has one.
    ids: Option<Vec<(&'static str, u32)>>,
}

impl SlimBtf {
    /// `None` if the kernel's BTF is not as expected, or no such file may be written.
    pub fn of(programs: &[&str]) -> Option<SlimBtf> {
        let targets = targets(programs);
        let (bytes, ids) = slim(&File::open(KERNEL_BTF).ok()?, &needs(programs), &targets)?;
        // SIGXFSZ would end the program.
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < bytes.len() as u64) {
            return None;
        }
        let mut file = File::from(memfd_create(c"btf", MemfdFlags::CLOEXEC).ok()?);
        file.write_all(&bytes).ok()?;
        Some(SlimBtf { file, ids })
    }

    /// A name for the open file.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Of programs, the type that each is attached to; none if libbpf is to find them.
    pub fn ids(&self) -> &[(&'static str, u32)] {
        self.ids.as_deref().unwrap_or_default()
    }
}

type Slim = (Vec<u8>, Option<Vec<(&'static str, u32)>>);

fn slim(file: &File, needs: &Tree<'_>, targets: &[(&'static str, Target)]) -> Option<Slim> {
    let mut kernel = Kernel::open(file)?;
    let composites = needs.0.keys().map(|name| (*name, Sort::Composite));
    kernel
        .want(&composites.chain(targets.iter().map(|(_, target)| *target)).collect::<Vec<_>>())?;
    let mut made = Made::new();
    kernel.find_composites()?;
    for (name, tree) in &needs.0 {
        // This kernel has no such type, as without MPTCP: the programs ask for that.
        let Some(id) = kernel.id(name, Sort::Composite) else { continue };
        made.composite(&mut kernel, id, name, tree)?;
    }
    kernel.find_others()?;
    let id = |&(program, (name, sort))| Some((program, kernel.id(name, sort)?));
    Some((made.finish(), targets.iter().map(id).collect()))
}

/// The wanted name that is there.
fn wanted<'n, 't>(
    kernel: &mut Kernel<'_>,
    at: u32,
    tree: &'t Tree<'n>,
) -> Option<Option<(&'n str, &'t Tree<'n>)>> {
    for (name, below) in &tree.0 {
        if kernel.is_name(at, name)? {
            return Some(Some((name, below)));
        }
    }
    Some(None)
}

/// BTF that is being made. Its first type is an integer, as which arrays count.
struct Made {
    types: Vec<u8>,
    count: u32,
    strings: Vec<u8>,
    /// Where each name is in the strings.
    names: HashMap<String, u32>,
}

impl Made {
    fn new() -> Self {
        let strings = vec![0];
        let mut made = Made { types: Vec::new(), count: 0, strings, names: HashMap::new() };
        let bits = 32;
        let id = made.push(&[0, INT << 24, 4, bits]);
        debug_assert_eq!(id, INT_ID);
        made
    }

    fn push(&mut self, words: &[u32]) -> u32 {
        self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        self.count += 1;
        self.count
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        *self.names.entry(name.to_owned()).or_insert_with(|| {
            let at = self.strings.len() as u32;
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            at
        })
    }

    /// A struct or union with those of its members that are read.
    fn composite(
        &mut self,
        kernel: &mut Kernel<'_>,
        id: u32,
        name: &str,
        tree: &Tree<'_>,
    ) -> Option<u32> {
        let record = kernel.type_of(id)?;
        let (mut members, mut missing) = (Vec::new(), tree.0.len());
        self.members(kernel, &record, tree, &mut members, &mut missing)?;
        self.push_composite(Head::read(&record)?, name, &members)
    }

    /// As that type, but with these members alone.
    fn push_composite(&mut self, head: Head, name: &str, members: &[u32]) -> Option<u32> {
        let name = self.name(name);
        let info = head.info & !0xffff | u32::try_from(members.len() / 3).ok()?;
        Some(self.push(&[&[name, info, head.size_or_type], members].concat()))
    }

    /// Each as its name, type and offset. Those of a struct without a name are in one without.
    fn members(
        &mut self,
        kernel: &mut Kernel<'_>,
        record: &[u8],
        tree: &Tree<'_>,
        members: &mut Vec<u32>,
        missing: &mut usize,
    ) -> Option<()> {
        for member in record[HEAD_LEN..].chunks_exact(MEMBER_LEN) {
            if *missing == 0 {
                break;
            }
            let [name, id, offset] = [0, 4, 8].map(|at| word(member, at));
            let (name, id, offset) = (name?, id?, offset?);
            if name == 0 {
                let inner = kernel.type_of(id)?;
                let head = Head::read(&inner)?;
                if !head.is_composite() {
                    continue;
                }
                let mut within = Vec::new();
                self.members(kernel, &inner, tree, &mut within, missing)?;
                if !within.is_empty() {
                    members.extend([0, self.push_composite(head, "", &within)?, offset]);
                }
            } else if let Some((name, below)) = wanted(kernel, name, tree)? {
                let made = self.value(kernel, id, below)?;
                members.extend([self.name(name), made, offset]);
                *missing -= 1;
            }
        }
        Some(())
    }

    /// What a member is: of an array its elements, of a pointer only that it is one.
    fn value(&mut self, kernel: &mut Kernel<'_>, id: u32, below: &Tree<'_>) -> Option<u32> {
        let record = kernel.type_of(id)?;
        let head = Head::read(&record)?;
        match head.kind() {
            PTR => Some(self.push(&[0, PTR << 24, 0])),
            INT => Some(self.push(&[0, head.info, head.size_or_type, word(&record, HEAD_LEN)?])),
            ENUM | ENUM64 => Some(self.push(&[0, head.info & !0xffff, head.size_or_type])),
            ARRAY => {
                let element = self.value(kernel, word(&record, HEAD_LEN)?, below)?;
                let count = word(&record, HEAD_LEN + 8)?;
                Some(self.push(&[0, ARRAY << 24, 0, element, INT_ID, count]))
            }
            _ if head.is_composite() => self.composite(kernel, id, "", below),
            _ => None,
        }
    }

    fn finish(self) -> Vec<u8> {
        let [types, strings] = [self.types.len(), self.strings.len()].map(|len| len as u32);
        let magic_and_version = u32::from(MAGIC) | 1 << 16;
        let header = [magic_and_version, HEADER_LEN as u32, 0, types, types, strings];
        let header = header.iter().flat_map(|word| word.to_ne_bytes());
        header.chain(self.types).chain(self.strings).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use libbpf_rs::btf::Btf;
    use libbpf_rs::btf::BtfKind;
    use libbpf_rs::btf::BtfType;
    use libbpf_rs::btf::types::Composite;
    use libbpf_rs::btf::types::Func;
    use libbpf_rs::btf::types::MemberAttr;
    use libbpf_rs::btf::types::Typedef;
    use proptest::prelude::*;

    use super::*;

    fn all() -> Tree<'static> {
        needs(&PROGRAMS.map(|program| program.name))
    }

    fn of_kernel() -> Vec<u8> {
        let file = File::open(KERNEL_BTF).unwrap();
        slim(&file, &all(), &[]).expect("the kernel's BTF is as expected").0
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = File::from(memfd_create(c"btf", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(bytes).unwrap();
        file
    }

    /// Offset in bits, size of a bit field and type of a member, wherever it is.
    fn member<'a>(btf: &'a Btf<'_>, of: BtfType<'a>, name: &str) -> Option<(u32, u8, BtfType<'a>)> {
        let composite = Composite::try_from(of).ok()?;
        composite.iter().find_map(|member| {
            let (offset, bits) = match member.attr {
                MemberAttr::Normal { offset } => (offset, 0),
                MemberAttr::BitField { size, offset } => (offset, size),
            };
            let ty = btf.type_by_id::<BtfType<'_>>(member.ty)?.skip_mods_and_typedefs();
            match member.name {
                Some(own) if own == name => Some((offset, bits, ty)),
                Some(_) => None,
                None => self::member(btf, ty, name).map(|(at, bits, ty)| (offset + at, bits, ty)),
            }
        })
    }

    /// As libbpf sees it: offset in bits, size of a bit field, kind of type.
    fn place(btf: &Btf<'_>, path: &str) -> Option<(u32, u8, BtfKind)> {
        let mut names = path.split('.');
        let root = names.next()?;
        let root =
            btf.type_by_kind::<Composite<'_>>().find(|t| t.name().is_some_and(|n| n == root))?;
        let mut found = (0, 0, *root);
        for name in names {
            let (at, bits, ty) = member(btf, found.2, name)?;
            found = (found.0 + at, bits, ty);
        }
        Some((found.0, found.1, found.2.kind()))
    }

    #[test]
    fn what_the_programs_read_is_where_the_kernel_has_it() {
        let slim = of_kernel();
        assert!(slim.len() < 16 << 10, "{} bytes", slim.len());
        let slim = SlimBtf { file: file(&slim), ids: None };
        let slim = Btf::from_path(slim.path()).expect("libbpf takes it");
        let whole = Btf::from_vmlinux().unwrap();
        let places = NEEDS.map(|need| (need, place(&whole, need)));
        assert!(places.iter().filter(|(_, place)| place.is_some()).count() > NEEDS.len() / 2);
        for (need, place) in places {
            assert_eq!(self::place(&slim, need), place, "{need}");
        }
    }

    #[test]
    fn what_is_slim_becomes_no_slimmer() {
        let once = of_kernel();
        assert_eq!(slim(&file(&once), &all(), &[]), Some((once, Some(Vec::new()))));
    }

    #[test]
    fn what_a_program_is_attached_to_has_the_id_that_libbpf_finds() {
        let all = targets(&PROGRAMS.map(|program| program.name));
        assert!(all.len() > 20, "{}", all.len());
        let whole = Btf::from_vmlinux().unwrap();
        let mut found = 0;
        for (program, (name, sort)) in all {
            let is_it = |own: Option<&OsStr>| own.is_some_and(|own| own == name);
            let id: Option<u32> = match sort {
                Sort::Function => whole
                    .type_by_kind::<Func<'_>>()
                    .find(|function| is_it(function.name()))
                    .map(|function| function.type_id().into()),
                _ => whole
                    .type_by_kind::<Typedef<'_>>()
                    .find(|typedef| is_it(typedef.name()))
                    .map(|typedef| typedef.type_id().into()),
            };
            let expected = id.map(|id| vec![(program, id)]);
            let kernel = File::open(KERNEL_BTF).unwrap();
            let (_, ids) = slim(&kernel, &Tree::default(), &[(program, (name, sort))]).unwrap();
            assert_eq!(ids, expected, "{name}");
            found += usize::from(ids.is_some());
        }
        assert!(found > 10, "{found}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            len in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let mut bytes = of_kernel();
            for (at, byte) in changes {
                let len = bytes.len();
                bytes[at.index(len)] = byte;
            }
            if !whole {
                bytes.truncate(len.index(bytes.len()));
            }
            slim(&file(&bytes), &all(), &targets(&PROGRAMS.map(|program| program.name)));
        }
    }
}
