//! Every difference between PostgreSQL versions that the extension must bridge.
