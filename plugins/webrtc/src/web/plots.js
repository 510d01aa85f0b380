// SPDX-License-Identifier: MPL-2.0
// Small plots of the last minute, and a few figures.

const MOST = 120;

/// One curve with its newest value. `format` makes text of a value.
export class Plot {
    constructor(title, format, {floor = 0} = {}) {
        this.format = format;
        this.floor = floor;
        this.values = [];
        const box = document.createElement('div');
        box.className = 'plot';
        const head = document.createElement('h2');
        const name = document.createElement('span');
        name.textContent = title;
        this.label = document.createElement('b');
        this.canvas = document.createElement('canvas');
        this.canvas.setAttribute('role', 'img');
        this.canvas.setAttribute('aria-label', title);
        head.append(name, this.label);
        box.append(head, this.canvas);
        document.getElementById('plots').append(box);
        this.clear();
    }

    clear() {
        this.values = [];
        this.label.textContent = '–';
        this.draw();
    }

    /// Nothing known is null: a gap.
    push(value) {
        this.values.push(value);
        if (this.values.length > MOST)
            this.values.shift();
        this.label.textContent = value === null ? '–' : this.format(value);
        this.draw();
    }

    draw() {
        const {canvas} = this;
        const scale = window.devicePixelRatio || 1;
        const width = canvas.clientWidth || 240;
        const height = canvas.clientHeight || 56;
        if (canvas.width !== Math.round(width * scale)) {
            canvas.width = Math.round(width * scale);
            canvas.height = Math.round(height * scale);
        }
        const context = canvas.getContext('2d');
        context.setTransform(scale, 0, 0, scale, 0, 0);
        context.clearRect(0, 0, width, height);
        const known = this.values.filter(value => value !== null);
        const top = Math.max(this.floor, ...known) || 1;
        context.strokeStyle = '#323a45';
        context.lineWidth = 1;
        context.strokeRect(.5, .5, width - 1, height - 1);
        const x = index => width - 2 - (this.values.length - 1 - index) * (width - 4) / (MOST - 1);
        const y = value => height - 3 - value / (top * 1.1) * (height - 8);
        context.strokeStyle = '#4fb3ff';
        context.lineWidth = 1.5;
        context.beginPath();
        let gap = true;
        this.values.forEach((value, index) => {
            if (value === null) {
                gap = true;
                return;
            }
            if (gap)
                context.moveTo(x(index), y(value));
            else
                context.lineTo(x(index), y(value));
            gap = false;
        });
        context.stroke();
        context.fillStyle = '#97a3b0';
        context.font = '10px system-ui, sans-serif';
        if (known.length)
            context.fillText(this.format(top), 4, 12);
    }
}

export function facts(entries) {
    const list = document.getElementById('facts');
    list.replaceChildren(...entries.flatMap(([name, value]) => {
        const term = document.createElement('dt');
        const text = document.createElement('dd');
        term.textContent = name;
        text.textContent = value;
        return [term, text];
    }));
}

export const kbps = value => value >= 1e6 ? `${(value / 1e6).toFixed(2)} Mbit/s` : `${Math.round(value / 1e3)} kbit/s`;
export const ms = value => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
export const percent = value => `${(value * 100).toFixed(1)} %`;
export const count = value => `${value}`;
