//! The calls that `console` needs, with types: [`Descriptor`], [`Terminal`] and its settings, [`Pty`], [`Program`].

use core::ffi::{CStr, c_char};
use plinth_programs::system::{call, number, write};
pub(crate) use plinth_programs::system::{exit, fork};
use plinth_programs::window::Size;

const EINTR: i64 = -4;
const EAGAIN: i64 = -11;

/// An open file.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor(u64);

/// What reading has given.
pub(crate) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End,
}

impl Descriptor {
    pub(crate) const INPUT: Self = Self(0);
    pub(crate) const OUTPUT: Self = Self(1);
    pub(crate) const ERROR: Self = Self(2);

    pub(crate) fn read(self, to: &mut [u8]) -> Got {
        let arguments = [self.0, to.as_mut_ptr() as u64, to.len() as u64];
        // SAFETY: the kernel writes to `to`, which is ours.
        match unsafe { call(number::READ, arguments) } {
            EINTR | EAGAIN => Got::Nothing,
            count @ 1.. => Got::Bytes(count as usize),
            _ => Got::End,
        }
    }

    /// Writes what is taken at once, and tells how much that was.
    pub(crate) fn write_some(self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        usize::try_from(write(self.0, bytes)).unwrap_or(0)
    }

    /// Writes all of it. What a line that is gone does not take is lost.
    pub(crate) fn write(self, mut bytes: &[u8]) {
        loop {
            match self.write_some(bytes) {
                0 => return,
                count => bytes = &bytes[count..],
            }
        }
    }

    fn close(self) {
        // SAFETY: touches no memory.
        unsafe { call(number::CLOSE, [self.0]) };
    }

    /// An `ioctl` with a number for its argument.
    fn control(self, request: u64, argument: u64) -> Option<u64> {
        // SAFETY: the requests of this file that have numbers for arguments touch no memory.
        let result = unsafe { call(number::IOCTL, [self.0, request, argument]) };
        u64::try_from(result).ok()
    }

    /// An `ioctl` that reads or writes a structure.
    fn control_with<T>(self, request: u64, with: &mut T) -> bool {
        // SAFETY: each request of this file is made with the type that belongs to it.
        unsafe { call(number::IOCTL, [self.0, request, (&raw mut *with) as u64]) == 0 }
    }
}

/// The settings of a terminal: the kernel's `struct termios`.
#[repr(C)]
#[derive(Clone)]
pub(crate) struct Terminal {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    line: u8,
    characters: [u8; 19],
}

impl Terminal {
    const TCGETS: u64 = 0x5401;
    /// Once what was written is on its way.
    const TCSETSW: u64 = 0x5403;
    const VTIME: usize = 5;
    const VMIN: usize = 6;

    pub(crate) fn of(terminal: Descriptor) -> Option<Self> {
        let mut settings = Self {
            input: 0,
            output: 0,
            control: 0,
            local: 0,
            line: 0,
            characters: [0; 19],
        };
        terminal
            .control_with(Self::TCGETS, &mut settings)
            .then_some(settings)
    }

    /// The same but for what is done to the bytes: nothing, in both directions.
    pub(crate) fn raw(&self) -> Self {
        let mut raw = Self {
            input: 0,
            output: 0,
            local: 0,
            ..self.clone()
        };
        raw.characters[Self::VTIME] = 0;
        raw.characters[Self::VMIN] = 1;
        raw
    }

    pub(crate) fn set(&self, terminal: Descriptor) {
        // One that cannot be set stays as it is.
        terminal.control_with(Self::TCSETSW, &mut self.clone());
    }
}

/// A pseudo-terminal: both of its sides.
pub(crate) struct Pty {
    master: Descriptor,
    slave: Descriptor,
}

#[repr(C)]
#[derive(Default)]
struct WindowSize {
    rows: u16,
    columns: u16,
    width_pixels: u16,
    height_pixels: u16,
}

impl Pty {
    const READ_WRITE: u64 = 2;
    const O_NOCTTY: u64 = 0o400;
    const F_SETFL: u64 = 4;
    const O_NONBLOCK: u64 = 0o4000;
    const TIOCSPTLCK: u64 = 0x4004_5431;
    const TIOCGPTPEER: u64 = 0x5441;
    const TIOCSCTTY: u64 = 0x540e;
    const TIOCGWINSZ: u64 = 0x5413;
    const TIOCSWINSZ: u64 = 0x5414;

    /// A new one.
    pub(crate) fn open() -> Option<Self> {
        let path = c"/dev/ptmx".as_ptr() as u64;
        // SAFETY: the path is a string.
        let master = unsafe { call(number::OPEN, [path, Self::READ_WRITE]) };
        let master = Descriptor(u64::try_from(master).ok()?);
        let flags = [master.0, Self::F_SETFL, Self::O_NONBLOCK];
        // SAFETY: touches no memory.
        let waits = unsafe { call(number::FCNTL, flags) } != 0;
        let is_locked = waits || !master.control_with(Self::TIOCSPTLCK, &mut 0u32);
        let slave = master.control(Self::TIOCGPTPEER, Self::READ_WRITE | Self::O_NOCTTY);
        match slave {
            Some(slave) if !is_locked => Some(Self {
                master,
                slave: Descriptor(slave),
            }),
            _ => {
                master.close();
                None
            }
        }
    }

    pub(crate) fn master(&self) -> Descriptor {
        self.master
    }

    /// Makes its slave this process's terminal, and a session of its own of this process.
    pub(crate) fn enter(self) -> bool {
        // SAFETY: touches no memory.
        unsafe { call(number::SETSID, []) };
        self.master.close();
        self.slave.control(Self::TIOCSCTTY, 0);
        let standard = [Descriptor::INPUT, Descriptor::OUTPUT, Descriptor::ERROR];
        let is_there = standard.iter().all(|standard| {
            // SAFETY: touches no memory.
            unsafe { call(number::DUP2, [self.slave.0, standard.0]) >= 0 }
        });
        self.slave.close();
        is_there
    }

    /// Leaves its slave to the process that has [entered](Self::enter) it, and hears when that is gone.
    pub(crate) fn leave_to_other(&self) {
        self.slave.close();
    }

    pub(crate) fn resize(&self, size: Size) {
        let mut size = WindowSize {
            rows: size.rows,
            columns: size.columns,
            ..WindowSize::default()
        };
        self.master.control_with(Self::TIOCSWINSZ, &mut size);
    }

    /// Makes it as large as another terminal that knows its size, as a screen does and a serial line does not.
    pub(crate) fn resize_like(&self, other: Descriptor) {
        let mut size = WindowSize::default();
        if other.control_with(Self::TIOCGWINSZ, &mut size) {
            self.master.control_with(Self::TIOCSWINSZ, &mut size);
        }
    }
}

/// What can be read.
pub(crate) struct Ready {
    /// Keys.
    pub(crate) keys: bool,
    /// What the program in the pseudo-terminal has said, or that it has ended.
    pub(crate) output: bool,
}

#[repr(C)]
struct PollDescriptor {
    descriptor: i32,
    wanted: u16,
    found: u16,
}

impl Ready {
    const INPUT: u16 = 1;
    const OUTPUT: u16 = 4;

    /// Waits until something can be read, or, where it wants no keys, the pseudo-terminal takes some; `None` when the
    /// patience was over before that.
    pub(crate) fn wait(pty: &Pty, wants_keys: bool, patience_ms: Option<u64>) -> Option<Self> {
        // Descriptors below zero are passed over.
        let keyboard = if wants_keys { 0 } else { -1 };
        let room = if wants_keys { 0 } else { Self::OUTPUT };
        let mut files = [
            PollDescriptor {
                descriptor: keyboard,
                wanted: Self::INPUT,
                found: 0,
            },
            PollDescriptor {
                descriptor: pty.master.0 as i32,
                wanted: Self::INPUT | room,
                found: 0,
            },
        ];
        let count = files.len() as u64;
        let patience = patience_ms.unwrap_or(u64::MAX);
        let arguments = [files.as_mut_ptr() as u64, count, patience];
        // SAFETY: there are so many of them.
        if unsafe { call(number::POLL, arguments) } == 0 {
            return None;
        }
        let [keyboard, master] = files;
        Some(Self {
            keys: keyboard.found != 0,
            output: master.found & !Self::OUTPUT != 0,
        })
    }
}

/// A program with its arguments and its surroundings.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    arguments: *const *const c_char,
    environment: *const *const c_char,
}

impl Program {
    /// # Safety
    /// Both are lists of strings with a null pointer at the end, and live as long as this.
    pub(crate) unsafe fn new(
        arguments: *const *const c_char,
        environment: *const *const c_char,
    ) -> Self {
        Self {
            arguments,
            environment,
        }
    }

    /// Becomes this program; its name without a path is one of busybox's, which are all in one place.
    pub(crate) fn become_it(self) -> ! {
        const FOLDER: &[u8] = b"/bin/";
        // SAFETY: there is one argument at least, and it is a string.
        let name = unsafe { CStr::from_ptr(*self.arguments) }.to_bytes();
        let mut path = [0; 256];
        let folder = if name.contains(&b'/') {
            &b""[..]
        } else {
            FOLDER
        };
        let bytes = folder.iter().chain(name);
        for (place, byte) in path[..255].iter_mut().zip(bytes) {
            *place = *byte;
        }
        let arguments = [
            path.as_ptr() as u64,
            self.arguments as u64,
            self.environment as u64,
        ];
        // SAFETY: a path with a zero at its end, and lists as `new` was promised.
        unsafe { call(number::EXECVE, arguments) };
        Descriptor::ERROR.write(b"console: there is no such program\n");
        exit(127)
    }
}

pub(crate) fn wait(child: u64) {
    // SAFETY: touches no memory: nobody asks for the status.
    unsafe { call(number::WAIT4, [child]) };
}
