-- 238,200 rows over three years, the same on every machine but for the day they are counted back from.
--
-- Every personal text carries the word zqcanary, so that one grep finds any of it anywhere.
-- All times of day lie between 4 and 20 hours before now: nothing falls due by itself while the story is told.

SET TimeZone = 'UTC';
SET synchronous_commit = off;

CREATE SCHEMA demo;

-- A number in 0 … n-1 that only id and seed decide.
CREATE FUNCTION demo.pick(id bigint, seed bigint, n bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ((hashint8extended(id, seed) % n) + n) % n;

-- The moment `days` before the anchor, at a time of day that id and seed decide.
CREATE FUNCTION demo.moment(days bigint, id bigint, seed bigint) RETURNS timestamptz
LANGUAGE sql STABLE
RETURN date_trunc('second', now()) - interval '4 hours' - make_interval(days => days::int)
       - make_interval(secs => demo.pick(id, seed, 16 * 3600));

-- Who was here from when to when, in days ago. Account 4711 went long ago: a court will ask for it.
CREATE TABLE demo.person AS
SELECT id, came, CASE WHEN id = 4711 THEN 700 ELSE demo.pick(id, 2, came) END AS went
FROM (SELECT id, CASE WHEN id = 4711 THEN 1000 ELSE 30 + demo.pick(id, 1, 1060) END AS came
      FROM generate_series(1, 6000) AS id) AS p;

CREATE TABLE demo.gadget AS
SELECT id, account_id, came, went + demo.pick(id, 12, came - went + 1) AS went
FROM (SELECT d AS id, p.id AS account_id, p.went, p.went + demo.pick(d, 11, p.came - p.went + 1) AS came
      FROM generate_series(1, 8000) AS d
      JOIN demo.person AS p ON p.id = (d - 1) % 6000 + 1) AS g;
CREATE INDEX ON demo.gadget (id);

INSERT INTO app.account
SELECT id, '+86 138 ' || lpad(demo.pick(id, 3, 100000000)::text, 8, '0') || ' zqcanary',
       'user' || id || '.zqcanary@mail.example', 'User ' || id || ' zqcanary',
       demo.moment(came, id, 4), demo.moment(went, id, 4)
FROM demo.person;

INSERT INTO app.device
SELECT id, account_id, 'Phone model ' || demo.pick(id, 13, 40) || ' zqcanary',
       'zqcanary-' || md5('device' || id), demo.moment(came, id, 14), demo.moment(went, id, 14)
FROM demo.gadget;

INSERT INTO app.app_log
SELECT l, demo.moment(g.went + demo.pick(l, 22, g.came - g.went + 1), l, 23), g.account_id, g.id,
       CASE demo.pick(l, 24, 3) WHEN 0 THEN 'click' ELSE 'view' END,
       ('10.' || demo.pick(l, 25, 250) || '.' || demo.pick(l, 26, 250) || '.' || demo.pick(l, 27, 250))::inet,
       'https://shop.example/zqcanary/' || md5('page' || l), 'button zqcanary ' || demo.pick(l, 28, 99)
FROM generate_series(1, 200000) AS l
JOIN demo.gadget AS g ON g.id = 1 + demo.pick(l, 21, 8000);

INSERT INTO app.orders
SELECT id, 'SO-' || lpad(id::text, 7, '0'), account_id, 'Buyer ' || account_id || ' zqcanary',
       '+86 139 ' || lpad(demo.pick(id, 33, 100000000)::text, 8, '0') || ' zqcanary',
       demo.pick(id, 34, 999) || ' zqcanary road, Hangzhou', 10 + demo.pick(id, 35, 90000) / 100.0,
       ordered_at, ordered_at + interval '2 hours'
FROM (SELECT o AS id, p.id AS account_id,
             demo.moment(p.went + demo.pick(o, 32, p.came - p.went + 1), o, 36) AS ordered_at
      FROM generate_series(1, 8000) AS o
      JOIN demo.person AS p ON p.id = CASE WHEN o = 888 THEN 4711 ELSE 1 + demo.pick(o, 31, 6000) END) AS o;

INSERT INTO app.order_item
SELECT i, (i + 1) / 2, 'sku-' || demo.pick(i, 41, 200), 1 + demo.pick(i, 42, 4),
       CASE WHEN demo.pick(i, 43, 4) > 0 THEN 'zqcanary happy birthday ' || i END
FROM generate_series(1, 16000) AS i;

INSERT INTO app.product
SELECT 'sku-' || n, 'Wallpaper ' || n FROM generate_series(0, 199) AS n;

DROP TABLE demo.gadget, demo.person;
ANALYZE;
