//! liblxc, loaded at run time: its types are in [`abi`](super::abi), functions come by name. Only the helper process comes here, because the
//! library forks and expects a process with a single thread.

use std::ffi::{CStr, CString, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use libloading::Library;
use rustix::process::Pid;

use super::abi::{self, AttachOptions};

type New = unsafe extern "C" fn(*const std::ffi::c_char, *const std::ffi::c_char) -> *mut abi::Container;
type Version = unsafe extern "C" fn() -> *const std::ffi::c_char;
type Put = unsafe extern "C" fn(*mut abi::Container) -> std::ffi::c_int;

/// Calls a function pointer of the object; liblxc fills them all in, in every version that has them.
macro_rules! call {
    ($self:ident . $name:ident ( $($arg:expr),* )) => {{
        // SAFETY: `raw` points to a live object whose table liblxc filled; the arguments are what its header asks for.
        unsafe {
            let function = (*$self.raw).$name.expect(concat!("liblxc has ", stringify!($name)));
            function($self.raw, $($arg),*)
        }
    }};
}

#[derive(Debug)]
pub struct Lxc {
    new: New,
    put: Put,
    version: Version,
}

impl Lxc {
    /// The library is never unloaded: it registers handlers that would point nowhere.
    pub fn load() -> Result<Self, libloading::Error> {
        // SAFETY: liblxc's initialisers only set up its log; no code of ours depends on what they do.
        let library = unsafe { Library::new("liblxc.so.1") }?;
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the signatures are those of lxccontainer.h, unchanged since LXC 1.0.
        unsafe {
            Ok(Self {
                new: *library.get::<New>(b"lxc_container_new\0")?,
                put: *library.get::<Put>(b"lxc_container_put\0")?,
                version: *library.get::<Version>(b"lxc_get_version\0")?,
            })
        }
    }

    pub fn version(&self) -> String {
        // SAFETY: liblxc returns a constant string of its own that ends with NUL.
        unsafe { CStr::from_ptr((self.version)()) }.to_string_lossy().into_owned()
    }

    /// A machine by its name and the folder after which its sockets are called. Reads `config`, connects to nothing.
    pub fn container(&self, name: &str, home: &Path, config: &Path) -> io::Result<Container> {
        let name = CString::new(name)?;
        let home = CString::new(home.as_os_str().as_encoded_bytes())?;
        let config = CString::new(config.as_os_str().as_encoded_bytes())?;
        // SAFETY: both strings end with NUL and outlive the call, which copies them.
        let raw = unsafe { (self.new)(name.as_ptr(), home.as_ptr()) };
        if raw.is_null() {
            return Err(io::Error::other("liblxc has no memory"));
        }
        let container = Container { raw, put: self.put };
        if !call!(container.load_config(config.as_ptr())) {
            return Err(io::Error::other("liblxc does not understand the machine's configuration"));
        }
        Ok(container)
    }
}

/// A reference to liblxc's object.
pub struct Container {
    raw: *mut abi::Container,
    put: Put,
}

impl Drop for Container {
    fn drop(&mut self) {
        // SAFETY: `raw` is the one reference that `lxc_container_new` gave.
        unsafe { (self.put)(self.raw) };
    }
}

impl Container {
    pub fn is_running(&self) -> bool {
        call!(self.is_running())
    }

    /// Starts the machine's init under a monitor of its own that outlives us.
    pub fn start(&self) -> bool {
        call!(self.want_daemonize(true)) && call!(self.want_close_all_fds(true)) && call!(self.start(0, std::ptr::null()))
    }

    /// Runs `program` in a child that has entered the machine as its root. It must end the child itself or return its code.
    pub fn attach<F: FnMut() -> i32>(&self, mut program: F) -> Option<Pid> {
        unsafe extern "C" fn enter<F: FnMut() -> i32>(payload: *mut c_void) -> i32 {
            // SAFETY: `payload` is the closure below, and the child has its own copy of it.
            unsafe { (*payload.cast::<F>())() }
        }
        let mut options = attach_options();
        let mut pid = 0;
        let payload = (&raw mut program).cast::<c_void>();
        let done = call!(self.attach(Some(enter::<F>), payload, &raw mut options, &raw mut pid));
        if done == 0 { Pid::from_raw(pid) } else { None }
    }

    /// The machine's console. It stays ours while the first descriptor is open; the second is the terminal.
    pub fn console(&self) -> Option<(OwnedFd, OwnedFd)> {
        let (mut number, mut terminal) = (0, -1);
        let hold = call!(self.console_getfd(&raw mut number, &raw mut terminal));
        if hold < 0 || terminal < 0 {
            return None;
        }
        // SAFETY: liblxc opened both for the caller, who is to close them.
        Some(unsafe { (OwnedFd::from_raw_fd(hold), OwnedFd::from_raw_fd(terminal)) })
    }

    pub fn error(&self) -> Option<String> {
        // SAFETY: the string, where there is one, belongs to the live object.
        let text = unsafe { (*self.raw).error_string };
        if text.is_null() {
            return None;
        }
        // SAFETY: liblxc ends its strings with NUL.
        Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}

/// `LXC_ATTACH_OPTIONS_DEFAULT` with an empty environment.
fn attach_options() -> AttachOptions {
    let mut options = AttachOptions::empty();
    options.attach_flags = abi::ATTACH_DEFAULT;
    options.namespaces = -1;
    options.personality = -1;
    options.uid = u32::MAX;
    options.gid = u32::MAX;
    options.env_policy = abi::ATTACH_CLEAR_ENV;
    options.stdin_fd = 0;
    options.stdout_fd = 1;
    options.stderr_fd = 2;
    options.log_fd = -9; // -EBADF
    options
}
