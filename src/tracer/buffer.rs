// SPDX-License-Identifier: Apache-2.0
//! How records leave the kernel: the ring, or perf buffers that wake nobody.

use std::cell::RefCell;
use std::ffi::c_void;
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::rc::Rc;

use libbpf_rs::PerfBuffer;
use libbpf_rs::RingBuffer;
use libbpf_rs::libbpf_sys;

use crate::event::Event;
use crate::event::decode;

/// Where decoded records wait for the loop. A panic in a callback would abort
/// the process, so callbacks only decode and push.
#[derive(Default)]
pub(super) struct Sink {
    pub(super) events: Vec<Event>,
    pub(super) undecodable: u64,
}

impl Sink {
    pub(super) fn take(&mut self, sample: &[u8]) {
        match decode(sample) {
            Ok(event) => self.events.push(event),
            Err(_) => self.undecodable += 1,
        }
    }
}

pub(super) type SharedSink = Rc<RefCell<Sink>>;

/// libbpf-rs wakes a perf buffer's reader for every sample and offers no other
/// way; libbpf itself does.
pub(super) struct QuietPerfBuffer {
    ptr: NonNull<libbpf_sys::perf_buffer>,
    /// Owned here, borrowed by the callback: dropped after the buffer.
    _sink: Box<SharedSink>,
}

impl QuietPerfBuffer {
    pub(super) fn new(map_fd: RawFd, pages: usize, sink: SharedSink) -> io::Result<Self> {
        unsafe extern "C" fn on_sample(sink: *mut c_void, _: i32, data: *mut c_void, size: u32) {
            // SAFETY: libbpf passes back the pointer it was given, to a sink
            // that outlives the buffer, and a sample of `size` bytes.
            let (sink, sample) = unsafe {
                let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size as usize);
                (&*sink.cast::<SharedSink>(), bytes)
            };
            sink.borrow_mut().take(sample);
        }
        let sink = Box::new(sink);
        let opts = libbpf_sys::perf_buffer_opts {
            sz: size_of::<libbpf_sys::perf_buffer_opts>() as _,
            // Becomes wakeup_events, compared as a signed number.
            sample_period: i32::MAX as u32,
            ..Default::default()
        };
        // SAFETY: the map is a perf event array; the context lives in `_sink`;
        // the options are copied during the call.
        let ptr = unsafe {
            libbpf_sys::perf_buffer__new(
                map_fd,
                pages as _,
                Some(on_sample),
                // Lost samples are counted in the kernel: PERF_RECORD_LOST
                // comes only with the next sample, and so undercounts.
                None,
                std::ptr::from_ref::<SharedSink>(&sink).cast_mut().cast(),
                &opts,
            )
        };
        let ptr = NonNull::new(ptr).ok_or_else(io::Error::last_os_error)?;
        Ok(QuietPerfBuffer { ptr, _sink: sink })
    }

    pub(super) fn consume(&self) -> io::Result<()> {
        // SAFETY: `ptr` is a live perf buffer.
        match unsafe { libbpf_sys::perf_buffer__consume(self.ptr.as_ptr()) } {
            n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
            _ => Ok(()),
        }
    }
}

impl Drop for QuietPerfBuffer {
    fn drop(&mut self) {
        // SAFETY: created by perf_buffer__new() and freed only here.
        unsafe { libbpf_sys::perf_buffer__free(self.ptr.as_ptr()) };
    }
}

pub(super) enum Transport {
    Ring(RingBuffer<'static>),
    Perf {
        data: QuietPerfBuffer,
        /// Records of processes, cgroups and names.
        beside: Option<QuietPerfBuffer>,
        doorbell: PerfBuffer<'static>,
        /// The era that must empty, and when it ended.
        ending: Option<(usize, u64)>,
    },
    /// `-c`: nothing leaves the kernel but the table.
    None,
}
