//! Shows the text screen of the guest that has the keys, on the terminal at the serial port.
//!
//! The text is the guest's own RAM, so it costs the guest nothing: the boot CPU looks at it now and then, between turns
//! ([`Viewer::look`]; when, says [`host::Viewing`]), and what has changed since the last time is sent ([`host::Picture`]).

use alloc::vec::Vec;

use host::Viewing;
use host::picture::{COLUMNS, Cell, ROWS};
use host::viewing::{Look, Port, Subject, SubjectState};
use machine::devices::TextView;
use memory::GuestMemory;

use crate::backend::Backend;
use crate::hw::clock;
use crate::hw::console::{self, Forget};
use crate::vm::{Vm, VmId};

/// Whose screen is shown, and what is on it.
pub(crate) struct Viewer {
    viewing: Viewing<VmId>,
    cells: Vec<Cell>,
}

impl Viewer {
    pub(crate) const fn new() -> Self {
        Self {
            viewing: Viewing::new(),
            cells: Vec::new(),
        }
    }

    /// Shows the screen of this VM, if it is time. A VM without a screen has the stream to itself.
    pub(crate) fn look<B: Backend>(&mut self, vm: &Vm<B>) {
        let subject = vm.has_screen().then(|| Subject {
            id: vm.id(),
            state: if vm.end().is_none() {
                SubjectState::Alive
            } else {
                SubjectState::Ended
            },
        });
        let now_ns = clock::now_ns();
        match self.viewing.look(subject, now_ns, port) {
            Look::Wait => return,
            Look::End => return console::forget_picture(Forget::End),
            Look::Redraw => console::forget_picture(Forget::Redraw),
            Look::Update => {}
        }
        self.cells.resize(ROWS * COLUMNS, Cell::BLANK);
        let cursor = read_screen(vm, &mut self.cells);
        console::show(&self.cells, cursor);
        self.viewing.handed_over(now_ns, port());
    }

    /// Shows nothing any more.
    pub(crate) fn forget(&mut self) {
        if self.viewing.forget() == Look::End {
            console::forget_picture(Forget::End);
        }
    }

    /// When it wants to look again, while it shows a screen.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.viewing.due_ns()
    }
}

/// What the serial port is at.
fn port() -> Port {
    if console::is_sending() {
        Port::Sending
    } else {
        Port::Idle
    }
}

/// Reads a text screen, row by row; returns row and column of the cursor, if there is one.
fn read_screen<B: Backend>(vm: &Vm<B>, cells: &mut [Cell]) -> Option<(u8, u8)> {
    cells.fill(Cell::BLANK);
    let view = vm.view()?;
    for (row, cells) in (0..TextView::ROWS).zip(cells.chunks_exact_mut(COLUMNS)) {
        let mut text = [0; 2 * COLUMNS];
        let text = &mut text[..2 * usize::from(view.columns)];
        let (start, before_end) = view.row(row);
        let first_part = text.len().min(before_end as usize);
        let (first, rest) = text.split_at_mut(first_part);
        // Text memory is RAM of every machine that has a screen.
        let _ = vm.memory().read(start, first);
        let _ = vm.memory().read(view.wrapped(), rest);
        for (cell, pair) in cells.iter_mut().zip(text.chunks_exact(2)) {
            // A blinking character is shown without that.
            let attribute = pair[1] & if view.blink { 0x7f } else { 0xff };
            let is_blank = matches!(pair[0], 0 | b' ' | 0xff) && attribute >> 4 == 0;
            if !is_blank {
                *cell = Cell {
                    character: pair[0],
                    attribute,
                };
            }
        }
    }
    view.cursor()
}
