// Runs the page in headless Chromium, served under the front door's own origin.
//
// Lines of JSON in: ["step", arguments…]; lines of JSON out: {event: …} whenever the page reports,
// {result: …} or {error: …} for each step in order. Ends at the end of the input.
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';

import { chromium } from 'playwright-core';

const [origin, executable] = process.argv.slice(2);
const here = new URL('.', import.meta.url);
const files = {
    '/acceptance/': ['page.html', 'text/html'],
    '/acceptance/ts-client/index.es.js': [
        'node_modules/@placeos/ts-client/dist/index.es.js',
        'text/javascript',
    ],
};

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

async function serve(route) {
    const [file, contentType] = files[new URL(route.request().url()).pathname] ?? [];
    if (!file) return route.fulfill({ status: 404 });
    return route.fulfill({ contentType, body: await readFile(new URL(file, here)) });
}

async function browserOptions() {
    const args = ['--no-sandbox', '--disable-dev-shm-usage'];
    if (executable) return { executablePath: executable, args };
    const { default: bundled } = await import('@sparticuz/chromium');
    return { executablePath: await bundled.executablePath(), args: [...bundled.args, ...args] };
}

const browser = await chromium.launch({ headless: true, ...(await browserOptions()) });
try {
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    // The page does not come from the network, so Chromium would ask whether it may reach
    // loopback. Older versions neither ask nor know the permission.
    await context.grantPermissions(['local-network-access']).catch(() => undefined);
    const page = await context.newPage();
    page.on('pageerror', (error) => say({ event: 'page error', error: String(error) }));
    page.on('requestfailed', (request) =>
        say({ event: 'request failed', url: request.url(), error: request.failure()?.errorText }),
    );
    await page.exposeFunction('report', say);
    await page.route(`${origin}/acceptance/**`, serve);
    await page.goto(`${origin}/acceptance/`);
    await page.waitForFunction(() => window.steps !== undefined);
    for await (const line of createInterface({ input: process.stdin })) {
        try {
            const result = await page.evaluate(
                ([step, ...given]) => window.steps[step](...given),
                JSON.parse(line),
            );
            say({ result: result ?? null });
        } catch (error) {
            say({ error: String(error) });
        }
    }
} finally {
    await browser.close();
}
