//! What is remembered of a statement that is running, from before it until after it, while statements inside it run.

use crate::pg::xact;

/// One value for each running statement, the innermost last. What failed is known by its subtransaction, which no later
/// statement has.
#[derive(Debug)]
pub struct PerStatement<T> {
    transaction: u32,
    running: Vec<(u32, T)>,
}

impl<T> PerStatement<T> {
    /// Nothing is running.
    pub const fn new() -> Self {
        PerStatement {
            transaction: 0,
            running: Vec::new(),
        }
    }

    fn forget_transactions_before(&mut self) {
        let transaction = xact::local_transaction_id();
        if self.transaction != transaction {
            self.transaction = transaction;
            self.running.clear();
        }
    }

    /// Forgets what failed inside the statement that goes on now, which goes on in the subtransaction in which it began.
    fn forget_failed(&mut self) {
        self.forget_transactions_before();
        let current = xact::subtransaction();
        while self
            .running
            .last()
            .is_some_and(|(began, _)| *began != current)
        {
            self.running.pop();
        }
    }

    /// A statement begins. It comes to its [`end`](Self::end), or fails.
    pub fn begin(&mut self, value: T) {
        self.forget_transactions_before();
        self.running.push((xact::subtransaction(), value));
    }

    /// What is remembered of the statement that goes on now.
    pub fn current(&mut self) -> Option<&mut T> {
        self.forget_failed();
        self.running.last_mut().map(|(_, value)| value)
    }

    /// The statement has come to its end.
    pub fn end(&mut self) -> Option<T> {
        self.forget_failed();
        self.running.pop().map(|(_, value)| value)
    }
}
