//! Scripts: bytes that describe the setup of a world and then what each party does.
//!
//! A script is what `arbitrary` makes of the bytes: a [`World::Setup`], then steps until the bytes
//! are used up. The same bytes are the same script on every machine. So a script that was found is
//! kept unchanged, and replays byte for byte.

use std::cell::{Cell, RefCell};
use std::fmt::{Arguments, Debug};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use arbitrary::{Arbitrary, Result, Unstructured};

/// The largest number of steps of a script. Further steps are not read, so that the length of an
/// input bounds its time.
const MOST_STEPS: usize = 200;

/// The party under attack and all its peers.
pub trait World: Sized {
    /// The setup: sizes, and the seed of all that is random.
    type Setup: for<'a> Arbitrary<'a> + Debug;
    /// A step of one party.
    type Step: for<'a> Arbitrary<'a> + Debug;

    /// Creates the world.
    fn new(setup: Self::Setup, trace: &Trace) -> Self;

    /// Makes a step, then runs the party under attack and checks its invariants.
    fn step(&mut self, step: Self::Step);

    /// Makes all peers honest, and checks that their requests succeed.
    fn honest(self);
}

/// Runs a script.
pub fn run<W: World>(bytes: &[u8], trace: &Trace) {
    let mut input = Unstructured::new(bytes);
    let Ok(setup) = W::Setup::arbitrary(&mut input) else { return };
    trace.print(format_args!("{setup:?}"));
    let mut world = W::new(setup, trace);
    for number in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        let Ok(step) = W::Step::arbitrary(&mut input) else { break };
        trace.print(format_args!("{number:3}  {step:?}"));
        world.step(step);
    }
    trace.print(format_args!("every party behaves"));
    world.honest();
    trace.print(format_args!("all is well"));
}

#[derive(Default)]
struct State {
    events: Cell<u64>,
    hash: RefCell<DefaultHasher>,
    printing: bool,
}

/// The events of a run, as a hash; for the replay of a script, also as text.
#[derive(Clone, Default)]
pub struct Trace(Rc<State>);

impl Trace {
    /// Creates a trace that only computes the hash.
    #[must_use]
    pub fn quiet() -> Self {
        Self::default()
    }

    /// Creates a trace that also prints each step and its effects to standard output.
    #[must_use]
    pub fn printing() -> Self {
        Trace(Rc::new(State { printing: true, ..State::default() }))
    }

    /// Prints a text for the person who replays the script.
    pub fn print(&self, text: Arguments<'_>) {
        if self.0.printing {
            println!("{text}");
        }
    }

    /// Records an event.
    pub fn record(&self, happened: impl Hash + Debug) {
        self.0.events.set(self.0.events.get() + 1);
        happened.hash(&mut *self.0.hash.borrow_mut());
        if self.0.printing {
            println!("       {happened:?}");
        }
    }

    /// Returns the number of events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.0.events.get()
    }

    /// Returns the hash of all events.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.0.hash.borrow().finish()
    }
}

/// Up to 255 bytes, as they are in the script.
#[derive(Clone)]
pub struct Bytes(pub Vec<u8>);

impl<'a> Arbitrary<'a> for Bytes {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let length = usize::from(u8::arbitrary(input)?).min(input.len());
        Ok(Bytes(input.bytes(length)?.to_vec()))
    }
}

impl Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// A number of 16 bits: usually a small one, sometimes one at a boundary, or any.
#[derive(Clone, Copy, Debug)]
pub struct Word(pub u16);

impl<'a> Arbitrary<'a> for Word {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        const BOUNDARIES: [u16; 12] = [14, 60, 255, 256, 1500, 1514, 4095, 4096, 4097, 0x7fff, 0x8000, 0xffff];
        let byte = u8::arbitrary(input)?;
        Ok(Word(match byte {
            0..=191 => u16::from(byte % 32),
            192..=223 => BOUNDARIES[usize::from(byte) % BOUNDARIES.len()],
            224..=255 => u16::arbitrary(input)?,
        }))
    }
}

/// An index of 32 bits that a party claims, relative to the true one.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Claim {
    /// Larger by this number.
    Ahead(u8),
    /// Smaller by this number.
    Behind(u8),
    /// Any index.
    Any(u32),
}

impl Claim {
    /// Returns the index that is claimed in place of `honest`.
    #[must_use]
    pub fn of(self, honest: u32) -> u32 {
        match self {
            Claim::Ahead(more) => honest.wrapping_add(u32::from(more)),
            Claim::Behind(less) => honest.wrapping_sub(u32::from(less)),
            Claim::Any(index) => index,
        }
    }
}
