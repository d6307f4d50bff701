-- From version 0.1.0 to 0.2.0. Whatever changes the SQL surface is added here too, in the same words as in the files
-- that a new installation runs: functions as `cargo pgrx schema` writes them. The test of upgrades compares an upgraded
-- database with a new one, object by object.
--
-- Tables get their columns at the end: a new column of an existing table stands last in bootstrap.sql as well.

SET LOCAL search_path = pg_catalog, pg_temp;
