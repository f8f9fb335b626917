// SPDX-License-Identifier: Apache-2.0
//! The compiled programs, in parts, so that a run opens and keeps only what it may use. Decides on
//! no hook.

use std::ops::Deref;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

/// What an object has programs for; PARTS of src/bpf/tcpconnect.bpf.c.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Connects for BCC's table, by any hook, and nothing beside them.
    Table,
    /// The same for rows with more fields, as those of JSON.
    Fields,
    /// The others are all that one hook may need.
    Fentry,
    Kprobe,
    Sockops,
}

/// libelf reads headers where they are, and include_bytes!() aligns nothing.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static TABLE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/table.o")));

/// An object that build.rs compressed, and its size.
macro_rules! compressed {
    ($name:literal) => {{
        const SIZE: usize = include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".o")).len();
        (&include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".o.z"))[..], SIZE)
    }};
}

impl Part {
    /// The object, which libbpf reads while it opens it.
    fn object(self) -> &'static [u8] {
        static INFLATED: [OnceLock<Vec<u8>>; 4] = [const { OnceLock::new() }; 4];
        let (at, (data, size)) = match self {
            Part::Table => return &TABLE.0,
            Part::Fentry => (0, compressed!("fentry")),
            Part::Kprobe => (1, compressed!("kprobe")),
            Part::Sockops => (2, compressed!("sockops")),
            Part::Fields => (3, compressed!("fields")),
        };
        let inflate = || decompress_to_vec_zlib_with_limit(data, size);
        INFLATED[at].get_or_init(|| inflate().expect("build.rs compressed it"))
    }

    /// The skeleton opens this one next.
    pub(super) fn choose(self) {
        *DATA.0.lock().unwrap_or_else(PoisonError::into_inner) = self;
    }
}

/// What the generated skeleton opens: it can be given nothing.
pub(super) struct Chosen(Mutex<Part>);

pub(super) static DATA: Chosen = Chosen(Mutex::new(Part::Table));

impl Deref for Chosen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).object()
    }
}
