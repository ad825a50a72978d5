//! Generations that stay because somebody wants them to.

use std::collections::BTreeSet;

use super::{Engine, EngineError};
use crate::generation::Cause;
use crate::lock::EngineLock;

impl Engine {
    /// The generations of this root that are pinned.
    ///
    /// # Errors
    /// [`EngineError::Generation`].
    pub fn pinned(&self) -> Result<BTreeSet<u64>, EngineError> {
        let pins = self.state.pins().map_err(EngineError::Generation)?;
        Ok(pins.of(&self.identity()?))
    }

    /// Pins a generation, so that it can be gone back to until it is unpinned; `false` when it is pinned already.
    ///
    /// # Errors
    /// [`EngineError::NotToBePinned`], [`EngineError::TooManyPins`], [`EngineError::Generation`].
    pub fn pin(&self, _: &EngineLock, number: u64) -> Result<bool, EngineError> {
        let listed = self.generations()?;
        // Nobody goes back to one that only changed identityd.
        let good: Vec<_> = listed.iter().filter(|listed| listed.cause != Cause::SelfUpdate).collect();
        if !good.iter().any(|listed| listed.number == number) {
            return Err(EngineError::NotToBePinned(good.iter().map(|listed| listed.number).collect()));
        }
        let mut pins = self.state.pins().map_err(EngineError::Generation)?;
        let is_new = pins.add(number, &self.identity()?).map_err(EngineError::TooManyPins)?;
        if is_new {
            self.state.write_pins(&pins).map_err(EngineError::Generation)?;
        }
        Ok(is_new)
    }

    /// Lets a pinned generation go: it is forgotten with those of its age. Whether anything is recorded of it does not
    /// matter.
    ///
    /// # Errors
    /// [`EngineError::NotPinned`], [`EngineError::Generation`].
    pub fn unpin(&self, _: &EngineLock, number: u64) -> Result<(), EngineError> {
        let mut pins = self.state.pins().map_err(EngineError::Generation)?;
        let identity = self.identity()?;
        if !pins.remove(number, &identity) {
            return Err(EngineError::NotPinned(pins.of(&identity).into_iter().collect()));
        }
        self.state.write_pins(&pins).map_err(EngineError::Generation)
    }
}
