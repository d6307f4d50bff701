-- A plain CREATE SCHEMA: a schema of this name that somebody else made must stop the installation.
CREATE SCHEMA custodian;
