//! What is to be written as a whole.

/// One step of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Writes a record.
    Put(Vec<u8>, Vec<u8>),
    /// Deletes a record.
    Delete(Vec<u8>),
    /// Deletes the records from the first key up to (not including) the second.
    DeleteRange(Vec<u8>, Vec<u8>),
}

impl Step {
    fn bytes(&self) -> usize {
        match self {
            Step::Put(key, value) => key.len() + value.len(),
            Step::Delete(key) => key.len(),
            Step::DeleteRange(from, to) => from.len() + to.len(),
        }
    }
}

/// Steps that are written together or not at all, in their order.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Batch {
    steps: Vec<Step>,
    bytes: usize,
}

impl Batch {
    /// Writes a record.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.add(Step::Put(key.into(), value.into()));
    }

    /// Deletes a record.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.add(Step::Delete(key.into()));
    }

    /// Deletes the records from `from` up to (not including) `to`.
    pub fn delete_range(&mut self, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) {
        self.add(Step::DeleteRange(from.into(), to.into()));
    }

    fn add(&mut self, step: Step) {
        self.bytes += step.bytes();
        self.steps.push(step);
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}
