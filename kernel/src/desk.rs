//! The operator's place, at the serial port of the boot CPU: what is typed goes to the guest that has the keys, to the
//! monitor's command line, or is a key for Plinth (`vmm::monitor` tells which). What it asks for is done here.
//!
//! Nothing here waits: the desk is attended between turns, and what takes longer than a moment goes on at the next
//! one. Bytes for a guest wait until it takes them, whatever else is typed meanwhile.

mod drill;
mod live;
mod tables;

use alloc::collections::VecDeque;

use ::log::LevelFilter;
use vmm::monitor::command::{self, COMMANDS, Command, LogLevel};
use vmm::monitor::keys::{self, Key, Keyboard, Reader, Shortcut};
use vmm::monitor::{Edit, Line};
use vmm::scheduler::NEVER;

use crate::backend::Backend;
use crate::crash;
use crate::crew::{About, Crew, Question};
use crate::hw::console::Refresh;
use crate::hw::screen::Colour;
use crate::hw::{clock, console, power};
use crate::keeper::{self, Attended, Keeper, NotDone};
use crate::startup;
use crate::viewer::Viewer;
use crate::vm::{Stance, VmId};

use self::drill::Running;
use self::live::Top;

/// Typed ahead at most for a guest that takes nothing; what comes after that is lost, as on any terminal.
const TYPED_AHEAD: usize = 4096;
/// What a guest had no room for is offered again after so long.
const FED_AGAIN_NS: u64 = 1_000_000;
/// A command line that others have spoken into is shown again after so long.
const SHOWN_AGAIN_NS: u64 = 200_000_000;
/// Lines of a guest's console that `tail` shows.
const TAIL_LINES: usize = 10;

/// The operator's place.
pub(crate) struct Desk<'a, B: Backend> {
    crew: &'a Crew<B>,
    keeper: Keeper<'a, B>,
    keyboard: Keyboard,
    line: Line,
    line_due_ns: u64,
    /// What has been typed for the guest and not been taken.
    typed: VecDeque<u8>,
    /// The guest that gets the keys.
    focus: Option<VmId>,
    /// Shows that guest's screen.
    viewer: Viewer,
    drill: Option<Running>,
    top: Option<Top>,
    /// It was said that nothing runs.
    idle_was_told: bool,
    is_done: bool,
}

impl<'a, B: Backend> Desk<'a, B> {
    /// The desk of the machines that this keeper has.
    pub(crate) fn new(crew: &'a Crew<B>, keeper: Keeper<'a, B>) -> Self {
        // Perhaps none of them has started.
        keeper::tell();
        Self {
            crew,
            keeper,
            keyboard: Keyboard::new(),
            line: Line::new(),
            line_due_ns: 0,
            typed: VecDeque::new(),
            focus: None,
            viewer: Viewer::new(),
            drill: None,
            top: None,
            idle_was_told: false,
            is_done: false,
        }
    }

    /// Whether all machines have ended, and nobody is about to start one.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// The host's TSC when the desk is to be attended again at the latest.
    pub(crate) fn due_tsc(&self) -> u64 {
        // A drill waits for moments that nobody announces.
        let drill_ns = self.drill.is_some().then(|| clock::now_ns() + 100_000);
        let top_ns = self.top.as_ref().map(Top::due_ns);
        let escape_ns = self
            .top
            .as_ref()
            .and_then(|top| top.presses.escape_due_ns());
        // Nor does a guest that has read what was typed, and has room for more.
        let is_fed = !self.typed.is_empty() && self.focus.is_some();
        let typed_ns = is_fed.then(|| clock::now_ns() + FED_AGAIN_NS);
        let has_line = self.keyboard.reader() == Reader::Monitor && self.top.is_none();
        let line_ns = (has_line && console::command_line_is_gone()).then_some(self.line_due_ns);
        let due = [
            self.keeper.due_ns(),
            drill_ns,
            top_ns,
            escape_ns,
            typed_ns,
            line_ns,
            self.viewer.due_ns().filter(|_| self.top.is_none()),
            console::screen_due_ns(),
            console::sending_due_ns(),
        ];
        let due = due.into_iter().flatten().min();
        due.map_or(NEVER, clock::tsc_at)
    }

    /// Looks after the machines and listens to the operator.
    pub(crate) fn attend(&mut self) {
        startup::report_when_done();
        // Before the machine goes that has shown its last.
        match self.focus.and_then(|id| self.keeper.life(id)) {
            Some(vm) if self.top.is_none() => self.viewer.look(vm),
            Some(_) => {}
            None => self.viewer.forget(),
        }
        // Where nobody is idle, the screen is drawn between two turns.
        console::refresh(Refresh::WhenDue);
        if self.keeper.attend() == Attended::Something {
            self.look_around();
        }
        while let Some(byte) = console::read_byte() {
            match self.keyboard.push(byte) {
                None => {}
                Some(Key::ToGuest(byte)) => self.type_ahead(byte),
                Some(Key::ToMonitor(byte)) => self.edit(byte),
                Some(Key::Shortcut(shortcut)) => self.shortcut(shortcut),
            }
        }
        // Somebody always has the keys, and with them the screen.
        let has_keys = self.focus.is_some_and(|id| self.keeper.life(id).is_some());
        if !self.typed.is_empty() || !has_keys {
            self.feed_guest();
        }
        if self.drill.is_some() {
            self.go_on_with_drill();
        }
        if self.top.is_some() {
            self.go_on_with_top();
        } else if self.keyboard.reader() == Reader::Monitor {
            self.show_line_again();
        }
    }

    /// The machine that is to be built now, for [`build`](Self::build).
    pub(crate) fn due_to_build(&self) -> Option<usize> {
        self.keeper.due()
    }

    /// Goes on building a machine, for a moment. No vCPU is loaded on this CPU.
    pub(crate) fn build(&mut self, machine: usize) {
        self.keeper.build(machine);
    }

    fn set_focus(&mut self, focus: Option<VmId>) {
        self.focus = focus;
        self.hand_over_keys();
    }

    fn set_reader(&mut self, reader: Reader) {
        self.keyboard.set_reader(reader);
        self.hand_over_keys();
    }

    /// Tells the terminal whether who gets what is typed wants its size in between.
    fn hand_over_keys(&self) {
        let focus = match self.keyboard.reader() {
            Reader::Guest => self.focus,
            Reader::Monitor => None,
        };
        console::give_keys(focus.map(|id| {
            let vm = self.keeper.life(id);
            (id.0, vm.is_some_and(|vm| vm.wants_size_reports()))
        }));
    }

    fn type_ahead(&mut self, byte: u8) {
        if self.typed.len() < TYPED_AHEAD {
            self.typed.push_back(byte);
        }
    }

    /// Offers what was typed to the guest that has the keys, which takes some of it.
    fn feed_guest(&mut self) {
        let Some(vm) = self.focus.and_then(|id| self.keeper.life(id)) else {
            self.set_focus(self.keeper.next_after(self.focus));
            return;
        };
        // The time of one that stands still does not pass for its devices either.
        if !self.typed.is_empty() && vm.stance() == Stance::Run {
            let taken = vm.receive(self.typed.make_contiguous());
            self.typed.drain(..taken.min(self.typed.len()));
        }
    }

    fn shortcut(&mut self, shortcut: Shortcut) {
        if self.top.is_some() {
            self.end_top();
            if shortcut == Shortcut::Top {
                return;
            }
        }
        match shortcut {
            Shortcut::Monitor => match self.keyboard.reader() {
                Reader::Guest => self.open(),
                Reader::Monitor => self.close(),
            },
            Shortcut::Top => self.begin_top(),
            Shortcut::Describe => self.ask(About::Everything, None),
            Shortcut::NextGuest => {
                self.set_focus(self.keeper.next_after(self.focus));
                let mut machines = self.keeper.machines().iter();
                if let Some(machine) = machines.find(|machine| Some(machine.id) == self.focus) {
                    say(format_args!("the keys go to {}", machine.config.name));
                }
            }
            Shortcut::ResetMachine => {
                say(format_args!("the operator resets the machine"));
                power::reset()
            }
            Shortcut::PowerOff => {
                say(format_args!("the operator switches the machine off"));
                power::power_off()
            }
            Shortcut::Help => {
                for line in keys::HELP {
                    say(format_args!("{line}"));
                }
            }
        }
    }

    fn ask(&self, about: About, vm: Option<VmId>) {
        self.crew.ask(Question { about, vm });
    }

    fn open(&mut self) {
        self.set_reader(Reader::Monitor);
        self.show_line(&[]);
    }

    fn close(&mut self) {
        self.set_reader(Reader::Guest);
        say(format_args!("the monitor is closed"));
    }

    fn show_line(&mut self, part: &[u8]) {
        console::command_line(part, &self.line.shown());
        self.line_due_ns = clock::now_ns() + SHOWN_AGAIN_NS;
    }

    fn show_line_again(&mut self) {
        if clock::now_ns() >= self.line_due_ns && console::command_line_is_gone() {
            self.show_line(&[]);
        }
    }

    /// A byte of the command line.
    fn edit(&mut self, byte: u8) {
        if let Some(top) = &mut self.top {
            if top.presses.push(byte, clock::now_ns()) {
                self.end_top();
            }
            return;
        }
        match self.line.push(byte, command::words()) {
            Edit::Nothing => {}
            Edit::Show(part) => self.show_line(&part),
            Edit::Dropped => {
                self.show_line(b"\n");
                self.show_line(&self.line.shown());
            }
            Edit::Leave => self.close(),
            Edit::Entered(text) => {
                console::command_line(b"\n", b"\n");
                console::command_line_is_over();
                self.enter(&text);
                if self.top.is_none() && self.keyboard.reader() == Reader::Monitor {
                    self.show_line(&[]);
                }
            }
        }
    }

    fn enter(&mut self, text: &str) {
        let command = match Command::parse(text) {
            Ok(Some(command)) => command,
            Ok(None) => return,
            Err(error) => return say(format_args!("{error}")),
        };
        if let Err(error) = self.carry_out(command) {
            say(format_args!("{error}"));
        }
    }

    fn carry_out(&mut self, command: Command) -> Result<(), NotDone> {
        match command {
            Command::Help => {
                for (usage, what) in COMMANDS {
                    show(format_args!("  {usage:<12} {what}"));
                }
            }
            Command::Vms => self.list_vms(),
            Command::Cpus => self.list_cpus(),
            Command::Memory => self.show_memory(),
            Command::Top => self.begin_top(),
            Command::Exits(name) => self.ask_about(About::Exits, &name)?,
            Command::Trace(name) => self.ask_about(About::Trace, &name)?,
            Command::Registers(name) => self.ask_about(About::Registers, &name)?,
            Command::Tail(name) => {
                for line in self.keeper.machine(&name)?.tail.lock().lines(TAIL_LINES) {
                    show(format_args!("{line}"));
                }
            }
            Command::Power(event, name) => {
                self.keeper.command(&name, event)?;
                self.look_around();
            }
            Command::Cycle(name, rounds) => self.begin_drill(name, rounds)?,
            Command::Console(name) => {
                self.set_focus(Some(self.keeper.machine(&name)?.id));
                self.close();
                say(format_args!("the keys go to {name}"));
            }
            Command::Log(level) => crate::log::set_level(match level {
                LogLevel::Error => LevelFilter::Error,
                LogLevel::Warn => LevelFilter::Warn,
                LogLevel::Info => LevelFilter::Info,
                LogLevel::Debug => LevelFilter::Debug,
                LogLevel::Trace => LevelFilter::Trace,
            }),
            Command::Crash(bug) => crash::crash(bug),
            Command::Spoil(part, name) => self.ask_about(About::Spoil(part), &name)?,
            Command::Exit => self.close(),
        }
        Ok(())
    }

    fn ask_about(&self, about: About, name: &str) -> Result<(), NotDone> {
        let id = self.keeper.machine(name)?.id;
        self.ask(about, Some(id));
        Ok(())
    }

    /// Sees whether all has ended, or nothing happens any more by itself, of which it is told once.
    fn look_around(&mut self) {
        self.is_done = self.keeper.is_done() && self.drill.is_none();
        let is_idle = self.keeper.is_idle() && self.drill.is_none() && !self.is_done;
        if is_idle && !self.idle_was_told {
            say(format_args!(
                "no VM runs; Ctrl-] m opens the monitor, where `start VM` starts one"
            ));
        }
        self.idle_was_told = is_idle;
    }
}

/// A line of Plinth's own.
fn say(what: core::fmt::Arguments<'_>) {
    console::line(Colour::Text, format_args!("plinth: {what}"));
}

/// A line of what the operator has asked for.
fn show(what: core::fmt::Arguments<'_>) {
    console::line(Colour::Text, what);
}
