// SPDX-License-Identifier: Apache-2.0
//! How records leave the kernel: the ring, or perf buffers that wake nobody.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::rc::Rc;

use libbpf_rs::libbpf_sys;

use super::ring::Ring;
use crate::kernel::record::decode;
use crate::kernel::record::share_of;
use crate::model::event::Event;

/// Where the bytes of a perf event's sample begin.
const SAMPLE_HEAD: usize = 12;

/// Where decoded records wait for the loop. A panic in a callback would abort
/// the process, so callbacks only decode and push.
#[derive(Default)]
pub(super) struct Sink {
    pub(super) events: Vec<Event>,
    pub(super) undecodable: u64,
    /// Bytes of each share of the ring that were read so far.
    pub(super) returned: Vec<u64>,
    pub(super) has_returned: bool,
}

impl Sink {
    pub(super) fn take(&mut self, sample: &[u8]) {
        if let Some((share, size)) = share_of(sample)
            && let Some(returned) = self.returned.get_mut(share)
        {
            *returned += size;
            self.has_returned = true;
        }
        match decode(sample) {
            Ok(event) => self.events.push(event),
            Err(_) => self.undecodable += 1,
        }
    }
}

pub(super) type SharedSink = Rc<RefCell<Sink>>;

/// One buffer for each CPU behind a perf event array. libbpf-rs wakes a perf
/// buffer's reader for every sample and offers no other way; libbpf itself does.
struct PerfBuffer {
    ptr: NonNull<libbpf_sys::perf_buffer>,
    /// Owned here, borrowed by the callback: dropped after the buffer. The
    /// doorbell has none: that it was rung is all it says.
    _sink: Box<Option<SharedSink>>,
}

/// A sample as the kernel writes it: this, then so many bytes.
#[repr(C)]
struct SampleHead {
    header: libbpf_sys::perf_event_header,
    size: u32,
}

unsafe extern "C" fn on_event(
    sink: *mut c_void,
    _: i32,
    event: *mut libbpf_sys::perf_event_header,
) -> libbpf_sys::bpf_perf_event_ret {
    // SAFETY: libbpf passes back the pointer it was given, to a sink that
    // outlives the buffer.
    let sink = unsafe { &*sink.cast::<Option<SharedSink>>() };
    // SAFETY: libbpf passes a whole event.
    let is_sample = unsafe { (*event).type_ } == libbpf_sys::PERF_RECORD_SAMPLE;
    // Lost samples are counted in the kernel: PERF_RECORD_LOST comes only
    // with the next sample, and so undercounts.
    if let (true, Some(sink)) = (is_sample, sink) {
        let head = event.cast::<SampleHead>();
        // SAFETY: a sample of raw data alone has this head, perhaps
        // unaligned, and `size` bytes behind it.
        let sample = unsafe {
            let size = (&raw const (*head).size).read_unaligned() as usize;
            std::slice::from_raw_parts(head.cast::<u8>().add(SAMPLE_HEAD), size)
        };
        sink.borrow_mut().take(sample);
    }
    libbpf_sys::LIBBPF_PERF_EVENT_CONT
}

impl PerfBuffer {
    /// Of one CPU, or of all that are online.
    fn new(
        map_fd: RawFd,
        pages: usize,
        sink: Option<SharedSink>,
        cpu: Option<i32>,
    ) -> io::Result<Self> {
        let mut attr = libbpf_sys::perf_event_attr {
            type_: libbpf_sys::PERF_TYPE_SOFTWARE,
            size: size_of::<libbpf_sys::perf_event_attr>() as u32,
            config: libbpf_sys::PERF_COUNT_SW_BPF_OUTPUT.into(),
            sample_type: libbpf_sys::PERF_SAMPLE_RAW.into(),
            ..Default::default()
        };
        // Of records no number wakes the reader (compared as a signed one), the
        // doorbell does each time.
        let period = if sink.is_some() { i32::MAX as u32 } else { 1 };
        attr.__bindgen_anon_1.sample_period = period.into();
        attr.__bindgen_anon_2.wakeup_events = period;
        let sink = Box::new(sink);
        let (mut cpus, mut keys) = ([cpu.unwrap_or(0)], [cpu.unwrap_or(0)]);
        let opts = libbpf_sys::perf_buffer_raw_opts {
            sz: size_of::<libbpf_sys::perf_buffer_raw_opts>() as _,
            cpu_cnt: cpu.map_or(0, |_| 1),
            cpus: cpus.as_mut_ptr(),
            map_keys: keys.as_mut_ptr(),
            ..Default::default()
        };
        // SAFETY: the map is a perf event array; the context lives in `_sink`;
        // attributes and options are copied during the call.
        let ptr = unsafe {
            libbpf_sys::perf_buffer__new_raw(
                map_fd,
                pages as _,
                &mut attr,
                Some(on_event),
                std::ptr::from_ref::<Option<SharedSink>>(&sink).cast_mut().cast(),
                &opts,
            )
        };
        let ptr = NonNull::new(ptr).ok_or_else(io::Error::last_os_error)?;
        Ok(PerfBuffer { ptr, _sink: sink })
    }

    fn consume(&self) -> io::Result<()> {
        // SAFETY: `ptr` is a live perf buffer.
        match unsafe { libbpf_sys::perf_buffer__consume(self.ptr.as_ptr()) } {
            n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
            _ => Ok(()),
        }
    }

    fn epoll_fd(&self) -> RawFd {
        // SAFETY: `ptr` is a live perf buffer.
        unsafe { libbpf_sys::perf_buffer__epoll_fd(self.ptr.as_ptr()) }
    }
}

impl Drop for PerfBuffer {
    fn drop(&mut self) {
        // SAFETY: created by perf_buffer__new_raw() and freed only here.
        unsafe { libbpf_sys::perf_buffer__free(self.ptr.as_ptr()) };
    }
}

/// The perf event arrays of the object, and how large each CPU's buffers are.
pub(super) struct PerfMaps {
    pub(super) data: RawFd,
    /// Records of processes, cgroups and names.
    pub(super) aux: Option<RawFd>,
    pub(super) doorbell: RawFd,
    pub(super) pages: usize,
}

struct PerfSet {
    data: PerfBuffer,
    aux: Option<PerfBuffer>,
    doorbell: PerfBuffer,
}

impl PerfSet {
    fn new(maps: &PerfMaps, sink: &SharedSink, cpu: Option<i32>) -> io::Result<Self> {
        let of_records = |map_fd| PerfBuffer::new(map_fd, maps.pages, Some(Rc::clone(sink)), cpu);
        Ok(PerfSet {
            data: of_records(maps.data)?,
            aux: maps.aux.map(of_records).transpose()?,
            doorbell: PerfBuffer::new(maps.doorbell, 1, None, cpu)?,
        })
    }

    fn consume(&self) -> io::Result<()> {
        self.doorbell.consume()?;
        self.data.consume()?;
        self.aux.as_ref().map_or(Ok(()), PerfBuffer::consume)
    }
}

/// The perf buffers of all CPUs: those online at start, and later ones. A CPU that
/// goes offline takes its perf events with it for good, and needs new ones should it
/// come back.
pub(super) struct PerfBuffers {
    maps: PerfMaps,
    sink: SharedSink,
    first: PerfSet,
    later: BTreeMap<i32, PerfSet>,
}

impl PerfBuffers {
    pub(super) fn new(maps: PerfMaps, sink: &SharedSink) -> io::Result<Self> {
        let first = PerfSet::new(&maps, sink, None)?;
        Ok(PerfBuffers { maps, sink: Rc::clone(sink), first, later: BTreeMap::new() })
    }

    pub(super) fn consume(&self) -> io::Result<()> {
        std::iter::once(&self.first).chain(self.later.values()).try_for_each(PerfSet::consume)
    }

    /// Readable when the doorbell of any CPU has been rung.
    pub(super) fn wake_fd(&self) -> RawFd {
        self.first.doorbell.epoll_fd()
    }

    /// From now on what happens on this CPU is heard, too.
    pub(super) fn add_cpu(&mut self, cpu: i32) -> io::Result<()> {
        if let Some(dead) = self.later.remove(&cpu) {
            // It would take the places of the new ones in the maps when it is freed.
            dead.consume()?;
        }
        let set = PerfSet::new(&self.maps, &self.sink, Some(cpu))?;
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: both descriptors are open, and the event is valid.
        let added = unsafe {
            let bell = set.doorbell.epoll_fd();
            libc::epoll_ctl(self.wake_fd(), libc::EPOLL_CTL_ADD, bell, &mut event)
        };
        if added < 0 {
            return Err(io::Error::last_os_error());
        }
        self.later.insert(cpu, set);
        Ok(())
    }
}

pub(super) enum Transport {
    Ring(Ring),
    Perf {
        buffers: PerfBuffers,
        /// The era that must empty, and when it ended.
        ending: Option<(usize, u64)>,
    },
    /// `-c`: nothing leaves the kernel but the table.
    None,
}
