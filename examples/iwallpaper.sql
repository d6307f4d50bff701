-- The published privacy policy of a wallpaper application, clause by clause.
--
-- Every sentence of the policy that a database can keep is here as SQL that runs; those that this version cannot
-- keep yet are named as such (NOT YET). The policy names no periods; those below are examples of what its owner
-- would have to decide. This is no legal advice.
--
-- iwallpaper.json is the policy that this declares, as one document for custodian.apply_policy().

CREATE EXTENSION pg_custodian;

-- An application to match: accounts, purchases, and the correspondence with customer service.
CREATE ROLE wallpaper NOLOGIN;
CREATE SCHEMA wallpaper AUTHORIZATION wallpaper;
SET ROLE wallpaper;
CREATE TABLE wallpaper.account (
    id bigint PRIMARY KEY, email text, nickname text, taste text,
    opened_at timestamptz NOT NULL, closed_at timestamptz);
CREATE TABLE wallpaper.purchase (
    id bigint PRIMARY KEY, account_id bigint NOT NULL REFERENCES wallpaper.account,
    payer text, amount numeric, paid_at timestamptz NOT NULL);
CREATE TABLE wallpaper.feedback (
    id bigint PRIMARY KEY, account_id bigint REFERENCES wallpaper.account ON DELETE CASCADE,
    reply_to text, body text, received_at timestamptz NOT NULL);
INSERT INTO wallpaper.account VALUES
    (1, 'a@example.com', 'Ann', 'mountains', now() - interval '4 years', NULL),
    (2, 'b@example.com', 'Bo', 'cities', now() - interval '4 years', now() - interval '3 years');
INSERT INTO wallpaper.purchase VALUES (10, 2, 'Bo', 30.00, now() - interval '4 years');
INSERT INTO wallpaper.feedback VALUES
    (20, 1, 'a@example.com', 'More mountains, please.', now() - interval '2 years'),
    (21, 1, 'a@example.com', 'Thank you!', now() - interval '2 days'),
    (22, 1, 'a@example.com', 'I want my money back.', now() - interval '18 months');
RESET ROLE;

-- "We collect and use your personal information … for the purpose of your use of the services and/or products we
-- provide."
SELECT custodian.define_purpose('wallpaper.service', 'contract', '30 days',
    description => 'use of the services and products');
SELECT custodian.define_purpose('wallpaper.feedback', 'contract', '1 year',
    description => 'answering feedback');

-- "We only retain your personal information for the time necessary to achieve the purpose of information
-- collection. We will keep your personal information for as long as it is strictly necessary to manage the
-- relationship with you (for example, when you open an account and obtain services from our products)."
--
-- The period runs from the day the account was closed. A NULL there means that it has not begun to run.
SELECT custodian.tag_table('wallpaper.account', clock => 'closed_at', null_clock => 'not_started',
    collected => 'opened_at', subject_kind => 'user', subject_key => '{id}', on_expiry => 'delete');
SELECT custodian.tag_column('wallpaper.account', 'email', 'user.contact.email', '{wallpaper.service}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('wallpaper.account', 'nickname', 'user.name', '{wallpaper.service}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_table('wallpaper.feedback', clock => 'received_at', collected => 'received_at',
    subject_kind => 'user', subject_via => '{account_id}', on_expiry => 'delete');
SELECT custodian.tag_column('wallpaper.feedback', 'reply_to', 'user.contact.email', '{wallpaper.feedback}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('wallpaper.feedback', 'body', 'user.content', '{wallpaper.feedback}',
    residency => '{cn}');

-- "For the purpose of complying with legal obligations … we may need to retain your archived personal information
-- after the expiration of the aforementioned period and cannot delete it according to your request."
SELECT custodian.define_purpose('wallpaper.sale', 'contract', '1 year', description => 'the sale');
SELECT custodian.tag_table('wallpaper.purchase', clock => 'paid_at', collected => 'paid_at',
    subject_kind => 'user', subject_via => '{account_id}', on_expiry => 'delete');
SELECT custodian.tag_column('wallpaper.purchase', 'payer', 'user.name', '{wallpaper.sale}', residency => '{cn}');
SELECT custodian.tag_column('wallpaper.purchase', 'amount', 'user.financial', '{wallpaper.sale}', residency => '{cn}');
SELECT custodian.require_minimum('cn.tax.records', 'wallpaper.purchase', '{payer,amount}', '10 years',
    citation => 'Rules for the Implementation of the Law of the PRC on the Administration of Tax Collection, Article 29(2)');

-- "… or proving that a certain right or contract meets the applicable statute of limitations …"
--
-- A claim defence keeps what answers a claim until the claim is barred; the address it came from goes on time. Where a
-- claim is known, a legal hold keeps what it needs.
SELECT custodian.declare_defence('cn.claims', 'wallpaper.feedback', '{body}', '3 years',
    citation => 'Civil Code of the PRC, Article 188', clock => 'received_at');
CREATE ROLE legal LOGIN;
SELECT custodian.place_hold('2026-claim-17', approver => 'legal', review_on => current_date + 365,
    reason => 'claim for damages', rel => 'wallpaper.feedback', match => '{"id": ["20"]}') > 0;

-- "Once you choose to use it, it is deemed that you agree … that we will collect and use your relevant information": what
-- the service itself does not need is held while the subject consents, and no longer.
SELECT custodian.define_purpose('wallpaper.recommend', 'consent', '1 year', required => false,
    description => 'recommending wallpapers');
SELECT custodian.tag_column('wallpaper.account', 'taste', 'user.behavior.preferences', '{wallpaper.recommend}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.record_consent('user', '{1}', 'wallpaper.recommend', now() - interval '4 years');
DO $$
BEGIN
    IF (SELECT state FROM custodian.explain_row('wallpaper.account', '{"id": 1}') WHERE column_name = 'taste') <> 'active' THEN
        RAISE 'consent does not cover';
    END IF;
    PERFORM custodian.withdraw_consent('user', '{1}', 'wallpaper.recommend', now() - interval '1 day');
    IF (SELECT state FROM custodian.explain_row('wallpaper.account', '{"id": 1}') WHERE column_name = 'taste') <> 'due' THEN
        RAISE 'a withdrawn consent still covers';
    END IF;
END
$$;

-- "We will use trusted protection mechanisms …": kept data cannot be destroyed, the rest is due.
SELECT relation, column_names, action, reason, rows FROM custodian.preview() ORDER BY relation::text, action;
SELECT column_name, state, citation FROM custodian.explain_row('wallpaper.purchase', '{"id": 10}');
SELECT column_name, state, decided_by FROM custodian.explain_row('wallpaper.feedback', '{"id": 20}');

DO $$
BEGIN
    IF (SELECT state FROM custodian.explain_row('wallpaper.purchase', '{"id": 10}') WHERE column_name = 'payer') <> 'blocked'
       OR (SELECT state FROM custodian.explain_row('wallpaper.feedback', '{"id": 20}') WHERE column_name = 'body') <> 'held'
       OR (SELECT state FROM custodian.explain_row('wallpaper.feedback', '{"id": 22}') WHERE column_name = 'body') <> 'blocked'
       OR (SELECT state FROM custodian.explain_row('wallpaper.feedback', '{"id": 22}') WHERE column_name = 'reply_to') <> 'due'
       OR (SELECT state FROM custodian.explain_row('wallpaper.account', '{"id": 2}') WHERE column_name = 'email') <> 'due'
       OR (SELECT state FROM custodian.explain_row('wallpaper.account', '{"id": 1}') WHERE column_name = 'email') <> 'active'
    THEN
        RAISE 'the policy is not kept';
    END IF;
END
$$;

-- "Encrypt key data to prevent unauthorized access …": encryption is the task of TLS, disks and other extensions.

-- "How do we share, transfer, and publicly disclose your personal information": nothing leaves the region of its
-- residency when custodian.enforce is on and the rules file says where peers are (see docs/dba.md).
-- A transfer to a partner is put on record with receiver, purpose and basis, and needs two stewards: see
-- log-and-storage.sql and docs/guard.md.

-- "How do we use cookies and other tracking technologies": see log-and-storage.sql.

-- "Please contact our customer service": who asks for erasure gets an answer, row by row: what goes now, what stays, until
-- when and by which law. NOT YET: a subject's own data as one answer.
SELECT relation, column_names, action, reason, rows, until, citation FROM custodian.preview_erasure('user', '{1}');
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM custodian.erase_subject('user', '{1}', 'request 2026-113')
                   WHERE 'taste' = ANY (column_names) AND action <> 'keep') THEN
        RAISE 'nothing was erased';
    END IF;
    IF (SELECT taste FROM wallpaper.account WHERE id = 1) IS NOT NULL
       OR (SELECT email FROM wallpaper.account WHERE id = 1) IS NULL
       OR NOT EXISTS (SELECT FROM wallpaper.feedback WHERE id = 20)
    THEN
        RAISE 'erasure is not what it should be';
    END IF;
END
$$;
