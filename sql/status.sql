-- Whether everything runs as it should.

CREATE VIEW custodian.status AS SELECT * FROM custodian.status_row();
COMMENT ON VIEW custodian.status IS 'one row: library, worker, modes, region, keys, epoch';
